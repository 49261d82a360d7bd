"""Looks at the whole database: how things are, and whether they agree."""
