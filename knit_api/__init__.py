"""The Web API of knit; `knit_workflows.wire` alone loads without the server."""
