"""The httpx engine: HTTP/1.1 as httpx, httpcore and h11 speak it. Slow, well known, and the native engine's witness.

    HttpxEngine ── chooses ──▶ HttpxLine ── a place ──▶ Attempt ── a task ──▶ httpx.AsyncHTTPTransport
                                                           │                        │ httpcore, h11
                                                           └──── HeadGate ◀──── Wire (the socket)

A transport and never a client: a client adds fields, keeps cookies, follows redirects, reads proxies from the
environment. And a transport of its own for each request: h11 keeps stray bytes behind a response, and on a connection
that were used again they would answer the next caller.

This is the only room that asks for httpx to be imported before a request is served; it is itself imported when an
upstream asks for it.
"""
