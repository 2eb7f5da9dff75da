"""The servers: `gateway serve` with its protocol class for uvicorn, and the ASGI application."""
