"""Who calls the API: logins at an identity provider, and where tokens are kept."""
