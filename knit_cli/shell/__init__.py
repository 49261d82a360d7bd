"""The command line as the shell sees it: arguments, completion, extensions."""
