"""The description of the gateway's own endpoints: OpenAPI 3.1, and a page of it for people."""
