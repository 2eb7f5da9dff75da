"""Corrects uvicorn's httptools protocol, which lets a client change a request after its head.

uvicorn appends request trailers to the list that the application has as `scope["headers"]`. Trailers in the same packet
as the head are in it before the application runs, so the application cannot tell them apart. A trailer `Authorization`
would authenticate, and behind a trusted proxy a trailer `X-Forwarded-For` would forge the client address (RFC 9110
6.5.1).

The application replaces the class in uvicorn's configuration when its lifespan starts. If it does not find that
configuration, the face refuses chunked requests: `merges_trailers`. The other ASGI servers, and uvicorn with h11, drop
request trailers.

The corrected class also keeps the responses to pipelined requests in order, and reports a disconnect to the request
that runs. uvicorn answers a WebSocket handshake, a malformed head and an oversized one ahead of a response that is due
before, or within its body.

Where the gateway is the application of the server, the class also writes the head of a response together with the first
piece of its body. uvicorn writes them one after the other, and each write is a system call. A complete response that an
upstream has serialized already goes to the connection without a message for each part: `write_response`.
"""

import asyncio
from functools import partial
from types import MethodType
from typing import Any, Final

from starlette.types import Receive, Scope, Send
from uvicorn._types import ASGI3Application
from uvicorn.lifespan.on import LifespanOn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

_CORRECTED: Final = "gateway.without_trailers"
_TOO_LARGE: Final = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_WAITING: Final = 128  # pipelined requests that wait for a response; each holds some kilobytes
_ONE_WRITE: Final = 65536  # The head is not copied together with a larger piece.


class ResponseTransport:
    """The transport of one response. Holds the head until the first piece of the body, as ASGI requires of a server.

    uvicorn writes each piece, even an empty one.
    """

    __slots__ = ("_held", "_transport")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._held: bytes | None = b""  # None after the head

    def write_whole(self, response: bytes) -> None:
        """Write a complete response."""
        self._held = None
        self._transport.write(response)

    def write(self, data: bytes) -> None:
        held = self._held
        if held is None or (not held and data == _CONTINUE):  # A body can have these bytes too.
            self._transport.write(data)
        elif not held:
            self._held = data
        else:
            self._held = None
            if len(data) <= _ONE_WRITE:
                self._transport.write(held + data)
            else:
                self._transport.writelines((held, data))

    def close(self) -> None:
        if self._held:
            self._transport.write(self._held)
        self._transport.close()

    def is_closing(self) -> bool:
        return self._transport.is_closing()


class TrailerlessProtocol(HttpToolsProtocol):
    """Drops trailers, limits reads that complete neither a head nor a piece of a body, and keeps responses in order."""

    def __init__(self, max_header_size: int, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._limit = max_header_size
        self._unfinished = 0
        self._running: RequestResponseCycle | None = None

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        # uvicorn reports the disconnect to the newest of several pipelined requests only.
        running = self._running
        if running is not None and not running.response_complete:
            running.disconnected = True
            running.message_event.set()

    def data_received(self, data: bytes) -> None:
        self._unfinished += len(data)
        super().data_received(data)
        if self._unfinished > self._limit and not self.transport.is_closing():
            self._refuse()

    def on_headers_complete(self) -> None:
        self._unfinished = 0
        if len(self.pipeline) >= _WAITING:
            raise RuntimeError("too many pipelined requests")  # httptools stops, and uvicorn refuses the bytes
        # A private key: uvicorn's type of the scope knows only those of the specification.
        self.scope[_CORRECTED] = True  # type: ignore[typeddict-unknown-key]
        super().on_headers_complete()
        self.headers = _Complete(self.headers)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def on_body(self, body: bytes) -> None:
        self._unfinished = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._unfinished = 0
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        if self._is_in_order():
            super().send_400_response(msg)
        else:
            self.transport.abort()

    def _should_upgrade(self) -> bool:
        # The WebSocket library answers a handshake at once, ahead of a response that is due before, and never answers
        # one with a body (RFC 6455 4.1: it is a GET without one).
        is_idle = self.cycle is None or self.cycle.response_complete
        return is_idle and not _announces_body(self.headers) and super()._should_upgrade()

    def handle_websocket_upgrade(self) -> None:
        super().handle_websocket_upgrade()
        # uvicorn drops this object without connection_lost, in a reference cycle with its parser. It never uses the
        # parser afterwards, so its type does not allow None.
        self.parser = None  # type: ignore[assignment]

    def _refuse(self) -> None:
        if self._is_in_order():
            self.transport.write(_TOO_LARGE)
            self.transport.close()
        else:
            self.transport.abort()

    def _is_in_order(self) -> bool:
        """Return whether the client can only attribute a response to the bytes that are being read. uvicorn would write
        it into the body of an earlier response, or in place of that response."""
        cycle = self.cycle
        if cycle is None:
            return True
        if not cycle.more_body:
            return cycle.response_complete
        return cycle is self._running and not cycle.response_started


class JoiningProtocol(TrailerlessProtocol):
    """Also writes the head of a response together with the first piece of its body."""

    def on_headers_complete(self) -> None:
        cycle = self.cycle
        super().on_headers_complete()
        if self.cycle is not cycle and self.scope["method"] != "HEAD":  # uvicorn writes no body for HEAD
            joined: Any = ResponseTransport(self.transport)
            self.cycle.transport = joined


def _announces_body(fields: list[tuple[bytes, bytes]]) -> bool:
    return any(
        name == b"transfer-encoding" or (name == b"content-length" and value.strip(b"0")) for name, value in fields
    )


class _Complete(list[tuple[bytes, bytes]]):
    """Complete header fields. Ignores the trailers that uvicorn appends."""

    def append(self, field: tuple[bytes, bytes]) -> None:
        pass


def correct_server(receive: Receive, max_header_size: int) -> None:
    """Correct the protocol of the server that sends the lifespan messages of `receive`."""
    _replace(getattr(receive, "__self__", None), JoiningProtocol, max_header_size)


def correct_outer_server(max_header_size: int) -> None:
    """Correct the protocol of the server if another application runs the lifespan of the gateway.

    The lifespan messages do not reach the gateway then, and a middleware can hide the server from each request. The
    heads of the other application are sent as uvicorn sends them.
    """
    for task in asyncio.all_tasks():
        frame = getattr(task.get_coro(), "cr_frame", None)
        _replace(None if frame is None else frame.f_locals.get("self"), TrailerlessProtocol, max_header_size)


def _replace(lifespan: object, protocol: type[TrailerlessProtocol], max_header_size: int) -> None:
    if isinstance(lifespan, LifespanOn) and lifespan.config.http_protocol_class is HttpToolsProtocol:
        corrected: Any = partial(protocol, max_header_size)
        lifespan.config.http_protocol_class = corrected


def write_response(send: Send, head: bytes, body: bytes) -> bool:
    """Write a complete response, in place of two messages to `send`. Return False where it is not uvicorn's, and where
    uvicorn logs the response, adds fields, waits for the client or closes the connection.

    `head` is the status line and the fields, without the empty line. They state the length of the body.
    """
    if type(send) is not MethodType:  # wrappers, some of which also have the attributes of the method
        return False
    cycle = send.__self__
    if not isinstance(cycle, RequestResponseCycle) or not isinstance(cycle.transport, ResponseTransport):
        return False
    if cycle.access_log or cycle.default_headers or cycle.response_started:
        return False
    if not cycle.keep_alive or cycle.disconnected or cycle.flow.write_paused:
        return False
    cycle.response_started = cycle.response_complete = True
    cycle.waiting_for_100_continue = False
    cycle.message_event.set()
    cycle.transport.write_whole(b"%b\r\n%b" % (head, body))
    cycle.on_response()
    return True


def merges_trailers(scope: Scope, receive: Receive) -> bool:
    """Return whether the header fields of this request can contain trailers."""
    return isinstance(getattr(receive, "__self__", None), RequestResponseCycle) and _CORRECTED not in scope
