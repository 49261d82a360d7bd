"""The command line as a shell sees it: arguments, completion, extensions."""
