"""Plan files: read, checked, compared and written."""
