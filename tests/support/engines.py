"""What the httpx engine cannot do, each with its reason; docs/engines.md says the same to users.

The native engine keeps every promise. A test that meets one of these differences names it here and asserts that what
does happen is safe: a request is answered, once, by what was meant for it.
"""

from typing import Final

from tests.support.processes import Engine

HTTPX: Final[dict[str, str]] = {
    "trailers": "httpx throws them away; so the engine does not promise to pass them on either (RFC 9110 10.1.4: TE)",
    "early answers": "httpcore looks for a response when the request is out: an early one is heard when the upload has "
    "ended, or when the upstream closes its side",
    "reuse": "h11 keeps stray bytes behind a response, which would answer the next request on that connection",
    "stale connections": "every request has a connection of its own, so there are none that could have gone stale",
}


def lacks(engine: Engine, difference: str) -> bool:
    """Whether this engine has the named difference."""
    assert difference in HTTPX, difference
    return engine == "httpx"
