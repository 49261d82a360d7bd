"""Data in the database."""
