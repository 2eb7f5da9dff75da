"""The native engine: HTTP/1.1 to upstreams with llhttp and asyncio protocols, in callbacks only."""
