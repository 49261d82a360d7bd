"""Describes what the API responds with, for people."""
