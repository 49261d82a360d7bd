"""The `knit` command line: a client of knit's Web API."""
