"""Runs in the database."""
