"""The native engine: HTTP/1.1 to upstreams over llhttp and asyncio protocols, by callbacks only."""
