"""The limitations of the application under a stock ASGI server, with their reasons.

`gateway serve` uses its own protocol class and has none of them. Under uvicorn the application depends on the ASGI
interface and on uvicorn's behaviour; a test that depends on such a difference names it here and asserts that the actual
behaviour is safe.
"""

from typing import Final

from tests.support.processes import Face

STOCK_UVICORN: Final[dict[str, str]] = {
    "parser errors": "uvicorn answers them itself, as text/plain 400, and the application does not see the request",
    "unknown methods": "a method unknown to llhttp is a parser error",
    "request lines": "llhttp accepts several spaces, HTTP/0.9, and a CR or LF before the method",
    "protocol name": "llhttp treats RTSP/1.0 as HTTP/1.0, and the scope does not distinguish them",
    "fragment": "uvicorn removes a raw # and the text after it from the target before the application sees it",
    "lone question mark": "the scope has an empty query_string for both `/x?` and `/x`",
    "authority": "the authority of an absolute-form target is not in the scope",
    "head limits": "uvicorn limits neither the size of a request head nor the time it takes",
    "framing limits": "reads without a byte of the body are limited; the trailers and extensions of a request are not",
    "response trailers": "uvicorn has no way to send them",
    "interim responses": "uvicorn has no way to send one",
    "pipelined errors": "uvicorn writes its 400 immediately, before the responses to earlier requests",
    "upgrade": "uvicorn loses the body of a request with an unsupported upgrade, and the bytes after it",
    "aborting": "a broken response ends with a FIN, which an HTTP/1.0 client takes for a complete response",
    "HTTP/1.0 framing": "uvicorn sends HTTP/1.0 clients chunks and 100 Continue",
    "304 length": "uvicorn breaks the connection if a 304 carries the Content-Length of its 200",
    "reason phrases": "uvicorn writes its own phrases",
    "handshakes": (
        "uvicorn answers a malformed WebSocket handshake itself, as text/plain 4xx or not at all, and loses the bytes "
        "that directly follow a handshake"
    ),
    "exit code": "uvicorn exits by the signal that it received, and waits for running requests without a time limit",
}


def stock(face: Face, difference: str) -> bool:
    """Whether this server has the named difference."""
    assert difference in STOCK_UVICORN, difference
    return face == "asgi"
