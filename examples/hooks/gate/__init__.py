"""A Before hook that lets a Run start only if its image is on a signed list."""
