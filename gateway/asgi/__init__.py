"""The gateway as an ASGI application: what stands between a server's messages and the gate and the proxy."""
