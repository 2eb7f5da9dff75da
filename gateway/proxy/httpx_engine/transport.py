"""httpx's transport over connections of ours, and the one border at which its errors become ours."""

import ssl
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final

import httpcore
import httpx

from gateway.errors import Refusal
from gateway.proxy.forward import UpstreamRequest
from gateway.proxy.target import Target

# Where a request goes is known to the network below the transport, what it asks for stands in `target`, and whom it
# asks in its Host: of the URL nothing is used but that it is one of HTTP.
_URL: Final = httpx.URL("http://upstream/")
# TLS, where there is any, is spoken below httpx, by the same code for both engines. A context that trusts nobody is
# what httpx is given, so that it need not make one each time.
_NO_TLS: Final = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
# RFC 9110 10.1.4: `TE: trailers` promises not to lose trailers, and httpx loses them. Connection names nothing but TE.
_NOT_SENT: Final = frozenset((b"te", b"connection"))

# What each kind of failure is to the caller; of a kind that is not here, what the next one above it is.
_FAILURES: Final[dict[type[Exception], str]] = {
    httpx.TransportError: "upstream_unreachable",
    httpx.TimeoutException: "upstream_timeout",
    httpx.PoolTimeout: "overloaded",
    httpx.ProtocolError: "upstream_invalid",
}

Connect = Callable[[], Awaitable[httpcore.AsyncNetworkStream]]


class Transport(httpx.AsyncHTTPTransport):
    """For one request on one connection, which `connect` makes. Nothing of it is used again."""

    def __init__(self, connect: Connect) -> None:
        super().__init__(verify=_NO_TLS, trust_env=False)
        self._pool = httpcore.AsyncConnectionPool(
            max_connections=1, max_keepalive_connections=0, network_backend=_Network(connect)
        )


class _Network(httpcore.AsyncNetworkBackend):
    """The network as httpcore sees it: everything leads to the target."""

    def __init__(self, connect: Connect) -> None:
        self._connect = connect

    async def connect_tcp(  # the signature is httpcore's
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        try:
            return await self._connect()
        except TimeoutError:
            raise httpcore.ConnectTimeout("did not accept a connection in time") from None
        except ssl.SSLError as error:
            raise httpcore.ConnectError(f"TLS: {error}") from None
        except (OSError, UnicodeError) as error:  # UnicodeError: a host name that IDNA cannot encode
            raise httpcore.ConnectError(str(error)) from None


def built(request: UpstreamRequest, target: Target, body: httpx.AsyncByteStream) -> httpx.Request:
    """The request for the transport: method, target and fields as the native engine would write them, to the byte."""
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
    """What the caller is told of a failure. Every TransportError comes past here."""
    code = next(_FAILURES[kind] for kind in type(error).__mro__ if kind in _FAILURES)
    return Refusal(
        code, f"{target}: {str(error) or type(error).__name__}", retry_after=1 if code == "overloaded" else None
    )
