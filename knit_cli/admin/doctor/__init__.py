"""`knit admin doctor`: checks an installation, and says how to mend what it finds."""
