"""The public listener with `server.tls`.

Each accepted connection starts TLS with the context that is in force at that moment, so renewed certificates need no
new socket and affect no open connection.

    accept ──▶ first byte ──▶ handshake ──▶ ClientConnection
                   └── a letter: an HTTP request in clear ──▶ 400

A connection has `server.header_timeout` until its handshake is complete, and counts towards `server.max_connections`
from its accept: clients that never finish it are the oldest attack on TLS servers.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from gateway.errors import Refusal
from gateway.proxy.slow_peers import STALL
from gateway.server.runtime import Runtime
from gateway.wire.problem import problem_body, problem_fields

_HANDSHAKE: Final = b"\x16"  # the type of the first record of a TLS client (RFC 8446 5.1)
_ACCEPTS_PER_TURN: Final = 64
_PAUSE: Final = 0.2  # seconds without an accept after the system had no files or memory left
_LAST_HANDSHAKES: Final = 1.0  # seconds for handshakes in progress when the listener closes
_LEAST_TIME: Final = 0.1  # seconds for a handshake whose first byte came late
_REFUSED: Final = 256  # connections above `max_connections` that get a response; ClientConnection has the same number


class TlsListener:
    """Accepts connections on `listener`, which it closes at the end. `make` creates their protocols."""

    def __init__(self, runtime: Runtime, listener: socket.socket, make: Callable[[], asyncio.Protocol]) -> None:
        self._runtime = runtime
        self._loop = runtime.loop
        self._listener = listener
        self._make = make
        self._starting: set[asyncio.Task[None]] = set()  # connections before the end of their handshake
        self._is_closed = False

    def open(self) -> None:
        """Accept connections."""
        if not self._is_closed:
            self._loop.add_reader(self._listener.fileno(), self._accept)

    async def close(self) -> None:
        """Stop accepting, and give handshakes in progress a moment."""
        if not self._is_closed:
            self._is_closed = True
            self._loop.remove_reader(self._listener.fileno())
            self._listener.close()
        if self._starting:
            await asyncio.wait(self._starting, timeout=_LAST_HANDSHAKES)
        for task in list(self._starting):
            task.cancel()

    def start_tls(self, accepted: socket.socket) -> None:
        """Serve an accepted connection."""
        accepted.setblocking(False)
        count = len(self._starting) + len(self._runtime.connections)
        if count >= self._runtime.server.max_connections + _REFUSED:
            accepted.close()
            return
        task = self._loop.create_task(self._start(accepted))
        self._starting.add(task)
        task.add_done_callback(self._starting.discard)

    def _accept(self) -> None:
        for _ in range(_ACCEPTS_PER_TURN):
            try:
                accepted, _address = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError:
                self._loop.remove_reader(self._listener.fileno())
                self._loop.call_later(_PAUSE, self.open)
                return
            self.start_tls(accepted)

    async def _start(self, accepted: socket.socket) -> None:
        deadline = self._loop.time() + self._runtime.server.header_timeout
        try:
            async with asyncio.timeout_at(deadline):
                first = await self._first_byte(accepted)
        except (OSError, TimeoutError):
            first = b""
        except BaseException:
            accepted.close()
            raise
        context = self._runtime.tls
        if first == _HANDSHAKE and context is not None:
            await self._shake_hands(accepted, context, max(_LEAST_TIME, deadline - self._loop.time()))
            return
        if first.isalpha():
            self._answer_in_clear(accepted)
        accepted.close()

    async def _first_byte(self, accepted: socket.socket) -> bytes:
        """Return the first byte of a connection without taking it, b"" at the end of the connection."""
        is_readable = asyncio.Event()
        descriptor = accepted.fileno()
        self._loop.add_reader(descriptor, is_readable.set)
        try:
            await is_readable.wait()
        finally:
            self._loop.remove_reader(descriptor)
        return accepted.recv(1, socket.MSG_PEEK)

    async def _shake_hands(self, accepted: socket.socket, context: ssl.SSLContext, seconds: float) -> None:
        # A client that breaks off or fails the handshake is no event: scanners do so all day.
        with suppress(OSError):
            await self._loop.connect_accepted_socket(
                self._make, accepted, ssl=context, ssl_handshake_timeout=seconds, ssl_shutdown_timeout=STALL
            )

    def _answer_in_clear(self, accepted: socket.socket) -> None:
        """Answer a client that sends HTTP without TLS with the reason, and close."""
        refusal = Refusal("bad_request", "HTTP in clear", detail="This port serves HTTPS only")
        request_id = self._runtime.request_ids.next()
        body = problem_body(refusal, request_id)
        fields = [
            *problem_fields(refusal, request_id),
            (b"content-length", b"%d" % len(body)),
            (b"connection", b"close"),
        ]
        head = b"".join(b"%b: %b\r\n" % field for field in fields)
        with suppress(OSError):
            accepted.recv(65536)  # a close with unread bytes would reset the connection
            accepted.send(b"HTTP/1.1 400 Bad Request\r\n%b\r\n%b" % (head, body))
