"""Reads bytes that a connection has received and its transport has not read yet."""

import asyncio
import os
import select
from collections.abc import Iterator
from typing import Final, cast

_PIECE: Final = 65536
_MOST_PIECES: Final = 256  # more than a receive queue holds


def watch(transport: asyncio.BaseTransport) -> select.poll:
    """Return a poll object that reports unread bytes, or the end of the stream, on a connection."""
    poll = select.poll()
    sock = transport.get_extra_info("socket")
    if sock is not None:
        poll.register(sock.fileno(), select.POLLIN | select.POLLRDHUP)
    return poll


def take(transport: asyncio.BaseTransport) -> Iterator[bytes]:
    """Read the bytes that are left, for use in a `connection_lost` that reports an error.

    A transport that fails to write reads no more, and closes its socket when `connection_lost` returns. A reset does
    not discard bytes that had arrived before (Linux, tcp_reset). Bytes of TLS go through `BelowTls` instead.
    """
    sock = transport.get_extra_info("socket")
    if sock is None or transport.get_extra_info("sslcontext") is not None:
        return
    for _ in range(_MOST_PIECES):
        try:
            data = os.read(sock.fileno(), _PIECE)
        except OSError:  # no more bytes, or the reset
            return
        if not data:
            return
        yield data


class BelowTls(asyncio.BufferedProtocol):
    """The protocol of a TCP transport that carries TLS. It passes everything on to the TLS protocol of the loop.

    When the transport fails to write, it first passes on the bytes that are left: the TLS protocol forgets its keys in
    `connection_lost`.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        """`transport` has started TLS."""
        self._transport = transport
        self._tls = tls = cast("asyncio.BufferedProtocol", transport.get_protocol())
        # Bound to the TLS protocol, so that a read costs no additional call.
        self.get_buffer = tls.get_buffer  # type: ignore[method-assign]
        self.buffer_updated = tls.buffer_updated  # type: ignore[method-assign]
        self.eof_received = tls.eof_received  # type: ignore[method-assign]
        self.pause_writing = tls.pause_writing  # type: ignore[method-assign]
        self.resume_writing = tls.resume_writing  # type: ignore[method-assign]

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None:
            for data in take(self._transport):
                memoryview(self._tls.get_buffer(len(data)))[: len(data)] = data
                self._tls.buffer_updated(len(data))
        self._tls.connection_lost(exc)
