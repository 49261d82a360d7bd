"""The whole stack as users meet it: the `knit` command against real processes."""
