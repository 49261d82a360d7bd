"""What knit is about, in plain values and pure functions: standard library only."""
