"""The gateway as an ASGI application: the adapters between the messages of an ASGI server, the gate and the proxy."""
