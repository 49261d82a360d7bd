"""Looks at a whole installation: how it is, and whether its parts agree with each other."""
