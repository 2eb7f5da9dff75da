"""What the application cannot do under a stock ASGI server, each with its reason.

`gateway serve` brings a protocol class of its own and keeps every promise. Under uvicorn the application sees what
uvicorn chooses to show and says what uvicorn lets through; a test that meets one of these differences names it here
and asserts that what does happen is safe.
"""

from typing import Final

from tests.support.processes import Face

STOCK_UVICORN: Final[dict[str, str]] = {
    "parser errors": "uvicorn answers them itself, as text/plain 400, and the application never hears of the request",
    "unknown methods": "a method that llhttp does not know is a parser error there",
    "request lines": "llhttp takes several spaces, HTTP/0.9, and a CR or LF before the method",
    "protocol name": "llhttp takes RTSP/1.0 for HTTP/1.0, and the scope does not show which it was",
    "fragment": "uvicorn takes a raw # and what follows off the target before the application sees it",
    "lone question mark": "scope has an empty query_string for `/x?` and for `/x` alike",
    "authority": "the authority of an absolute-form target is not in the scope",
    "head limits": "uvicorn limits neither the size of a request head nor the time it takes",
    "framing limits": "reads without a byte of a body are limited, the trailers and extensions of a request are not",
    "response trailers": "uvicorn has no way to send them",
    "interim responses": "uvicorn has no way to send one",
    "pipelined errors": "uvicorn writes its 400 at once, before the answers of earlier requests",
    "upgrade": "uvicorn loses the body of a request that asks for an upgrade it does not do, and what follows it",
    "aborting": "the end of a broken response is a FIN, which an HTTP/1.0 caller takes for a clean end",
    "HTTP/1.0 framing": "uvicorn answers HTTP/1.0 callers in chunks and sends them 100 Continue",
    "304 length": "uvicorn breaks the connection if a 304 carries the Content-Length of its 200",
    "reason phrases": "uvicorn writes its own",
    "handshakes": (
        "uvicorn answers a WebSocket handshake that is not right itself, as text/plain 4xx or not at all, and loses "
        "what comes right behind one"
    ),
    "exit code": "uvicorn ends by the signal it was sent, and waits for running requests without a bound",
}


def stock(face: Face, difference: str) -> bool:
    """Whether this face has the named difference."""
    assert difference in STOCK_UVICORN, difference
    return face == "asgi"
