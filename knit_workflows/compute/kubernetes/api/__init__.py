"""The API server of a cluster: connections, requests, watches, and the JSON that it speaks."""
