"""The Web API, through the real app; volumes and the store are behind their ports."""
