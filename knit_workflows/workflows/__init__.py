"""Workflows: they decide and wait, and never touch the world themselves."""
