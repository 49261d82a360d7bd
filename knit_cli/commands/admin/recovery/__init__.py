"""`knit admin backup`, `restore`, `rebuild` and `verify`: what is kept, and what came of it."""
