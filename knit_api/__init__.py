"""The Web API of knit; `knit_api.schemas` alone loads without the server."""
