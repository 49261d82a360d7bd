"""Activities that call lifecycle hooks."""
