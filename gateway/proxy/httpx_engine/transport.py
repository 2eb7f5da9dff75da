"""httpx's transport over the gateway's connections, and the translation of its errors to refusals."""

import ssl
from collections.abc import Iterable
from typing import Any, Final

import httpcore
import httpx

from gateway.errors import Refusal
from gateway.proxy.forward import UpstreamRequest
from gateway.proxy.target import Target

# The network below the transport knows the target, `target` contains the path, and the Host field the host. Only the
# scheme of this URL is used.
_URL: Final = httpx.URL("http://upstream/")
# TLS is handled below httpx, by the same code for both engines. This context trusts no certificate, and saves httpx
# from creating one for each request.
_NO_TLS: Final = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
# RFC 9110 10.1.4: `TE: trailers` promises not to lose trailers, and httpx loses them. Connection names only TE.
_NOT_SENT: Final = frozenset((b"te", b"connection"))

# The refusal code for each class of failure. Subclasses not listed use the code of the next listed base class.
_FAILURES: Final[dict[type[Exception], str]] = {
    httpx.TransportError: "upstream_unreachable",
    httpx.TimeoutException: "upstream_timeout",
    httpx.PoolTimeout: "overloaded",
    httpx.ProtocolError: "upstream_invalid",
}


class Transport(httpx.AsyncHTTPTransport):
    """Sends one request on one connection, `stream`. Nothing is reused."""

    def __init__(self, stream: httpcore.AsyncNetworkStream) -> None:
        super().__init__(verify=_NO_TLS, trust_env=False)
        self._pool = httpcore.AsyncConnectionPool(
            max_connections=1, max_keepalive_connections=0, network_backend=_Network(stream)
        )


class _Network(httpcore.AsyncNetworkBackend):
    """The network for httpcore: a connection that exists."""

    def __init__(self, stream: httpcore.AsyncNetworkStream) -> None:
        self._stream = stream

    async def connect_tcp(  # the signature is httpcore's
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        return self._stream


def httpx_request(request: UpstreamRequest, target: Target, body: httpx.AsyncByteStream) -> httpx.Request:
    """Build the request for the transport. Method, target and fields equal those of the native engine to the byte."""
    method, path, _ = request.start.split(b" ", 2)
    host = target.authority.encode("ascii") if request.preserved_host is None else request.preserved_host
    kept = [(name, value.strip(b" \t")) for name, value in request.field_lines if name.lower() not in _NOT_SENT]
    return httpx.Request(
        method.decode("ascii"),
        _URL,
        headers=[(b"Host", host), *kept],
        stream=body,
        extensions={"target": path},
    )


def refusal_of(error: httpx.TransportError, target: Target) -> Refusal:
    """Return the refusal for a failure. Handles every TransportError."""
    code = next(_FAILURES[kind] for kind in type(error).__mro__ if kind in _FAILURES)
    return Refusal(
        code, f"{target}: {str(error) or type(error).__name__}", retry_after=1 if code == "overloaded" else None
    )
