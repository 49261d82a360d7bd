"""Certificates of an installation."""
