"""`knit data` and its commands."""
