"""What knit needs of Temporal beyond its SDK: a connection, what a server does, its queues."""
