"""The wire types of knit's Web API: shapes only, importable without the server."""
