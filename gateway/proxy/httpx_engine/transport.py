"""A request, its body and its errors in the types of httpx, and httpx's transport over a connection of the gateway."""

import asyncio
from typing import Final

import httpcore
import httpx

from gateway.errors import Refusal
from gateway.proxy.forward import UpstreamRequest
from gateway.proxy.interfaces import Downstream
from gateway.proxy.response_head import ResponseFault
from gateway.proxy.target import Target

HELD: Final = 65536  # bytes that wait in one direction before their source is paused

# The connection exists, the extension `target` contains the path, and the Host field the host. httpx needs a URL
# nevertheless, and TLS is handled below it, by the same code for both engines.
_URL: Final = httpx.URL("http://upstream/")
_ORIGIN: Final = httpcore.Origin(b"http", b"upstream", 80)
# RFC 9110 10.1.4: `TE: trailers` promises not to lose trailers, and httpx loses them. Connection names only TE.
_NOT_SENT: Final = frozenset((b"te", b"connection"))

# The refusal code for each class of failure. Subclasses not listed use the code of the next listed base class.
_FAILURES: Final[dict[type[Exception], str]] = {
    httpx.TransportError: "upstream_unreachable",
    httpx.TimeoutException: "upstream_timeout",
    httpx.PoolTimeout: "overloaded",
    httpx.ProtocolError: "upstream_invalid",
    ResponseFault: "upstream_invalid",
}


class Transport(httpx.AsyncHTTPTransport):
    """Sends one request on one connection, `stream`. Nothing is reused."""

    def __init__(self, stream: httpcore.AsyncNetworkStream) -> None:
        # The constructor of the base class would create a pool and a TLS context for each request.
        self._pool = httpcore.AsyncHTTP11Connection(_ORIGIN, stream)  # type: ignore[assignment]


class RequestBody(httpx.AsyncByteStream):
    """The body of a request for httpx. An iterator, because a generator that is not exhausted must be closed."""

    def __init__(self, downstream: Downstream) -> None:
        self.is_stuck = False
        self._downstream = downstream
        self._data = bytearray()
        self._ended = False
        self._stopped = False
        self._changed = asyncio.Event()

    def add(self, data: bytes) -> None:
        """Keep a piece until httpx asks for it."""
        self._data += data
        if len(self._data) > HELD and not self.is_stuck:
            self.is_stuck = True
            self._downstream.pause_upload()
        self._changed.set()

    def end(self) -> None:
        """Complete the body."""
        self._ended = True
        self._changed.set()

    def stop(self) -> None:
        """The upstream has closed."""
        self._stopped = True
        self._changed.set()

    def take(self) -> bytes:
        """The pieces that have come since the last call."""
        data = bytes(self._data)
        self._data.clear()
        if self.is_stuck:
            self.is_stuck = False
            self._downstream.resume_upload()
        return data

    def __aiter__(self) -> "RequestBody":
        return self

    async def __anext__(self) -> bytes:
        while not (self._data or self._ended or self._stopped):
            self._changed.clear()
            await self._changed.wait()
        if self._ended and not self._data:
            raise StopAsyncIteration
        if self._stopped:  # httpcore raises the same when it cannot write, and then reads the response
            raise httpcore.WriteError("the upstream has closed")
        return self.take()


def httpx_request(request: UpstreamRequest, target: Target, body: RequestBody) -> httpx.Request:
    """Build the request for the transport. Method, target and fields equal those of the native engine to the byte."""
    method, path, _ = request.start.split(b" ", 2)
    host = target.authority.encode("ascii") if request.preserved_host is None else request.preserved_host
    kept = [(name, value.strip(b" \t")) for name, value in request.field_lines if name.lower() not in _NOT_SENT]
    return httpx.Request(
        method.decode("ascii"), _URL, headers=[(b"Host", host), *kept], stream=body, extensions={"target": path}
    )


def refusal_of(error: httpx.TransportError | ResponseFault, target: Target) -> Refusal:
    """Return the refusal for a failure. Handles every TransportError."""
    code = next(_FAILURES[kind] for kind in type(error).__mro__ if kind in _FAILURES)
    return Refusal(
        code, f"{target}: {str(error) or type(error).__name__}", retry_after=1 if code == "overloaded" else None
    )
