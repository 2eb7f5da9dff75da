"""Bytes that a connection has received and its transport has not read yet."""

import asyncio
import os
import select
from collections.abc import Iterator
from typing import Final

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
    not discard bytes that had arrived before (Linux, tcp_reset). The bytes of TLS cannot be decrypted here.
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
