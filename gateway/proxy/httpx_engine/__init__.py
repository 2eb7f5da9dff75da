"""The httpx engine: HTTP/1.1 by httpx, httpcore and h11. It is slower than the native engine, widely known, and an
independent check of it.

    ConnectionPool ──▶ HttpxConnection ── a task ──▶ httpx.AsyncHTTPTransport
                             ▲                            │ httpcore, h11
                             └─ HeadFilter ◀── socket ◀───┘

It uses a transport and no client, because a client adds fields, keeps cookies, follows redirects and reads proxies from
the environment. Each request has its own transport: h11 keeps surplus bytes after a response, which would answer the
next caller on a reused connection.

Only this package needs httpx before a request is served. It is imported only if an upstream uses it.
"""
