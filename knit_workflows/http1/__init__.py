"""HTTP/1.1 messages read and written without a framework; standard library only."""
