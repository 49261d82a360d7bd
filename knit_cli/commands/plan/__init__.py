"""`knit plan` and its commands."""
