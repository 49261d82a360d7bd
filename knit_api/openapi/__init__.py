"""The OpenAPI document, for programs and for people."""
