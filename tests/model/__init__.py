"""knit compared, step by step, with a plain-Python model of its specification."""
