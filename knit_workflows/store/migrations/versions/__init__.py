"""The revisions, oldest first by number; forward only."""
