"""What is in volumes: hashed where they are, compared with what it was when it was first hashed."""
