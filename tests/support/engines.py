"""The limitations of the httpx engine with their reasons; docs/engines.md has the same list for users.

The native engine has none of them. A test that depends on such a difference names it here and asserts that the actual
behaviour is safe: a request is answered once, with its own response.
"""

from typing import Final

from tests.support.processes import Engine

HTTPX: Final[dict[str, str]] = {
    "trailers": "httpx discards them, so the engine does not announce support for them (RFC 9110 10.1.4: TE)",
    "early responses": "httpcore reads a response after it has sent the request: an early response arrives when the "
    "upload ends, or when the upstream closes its side",
    "reuse": "h11 keeps bytes that follow a response, and would use them as the response to the next request",
    "stale connections": "every request uses a new connection, so no connection can be stale",
}


def lacks(engine: Engine, difference: str) -> bool:
    """Whether this engine has the named difference."""
    assert difference in HTTPX, difference
    return engine == "httpx"
