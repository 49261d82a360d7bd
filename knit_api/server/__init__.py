"""Below the framework: sockets, trailers, and threads that block."""
