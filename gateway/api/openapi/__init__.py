"""OpenAPI 3.1 description of the built-in endpoints, as JSON and as an HTML page."""
