"""Extra APIs: paths of this server that are served by other services; a reverse proxy."""
