"""Operations on the socket of a client, below its transport."""

import asyncio
import contextlib
import select
import socket
import struct
from typing import Final

_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)


def reset_on_close(transport: asyncio.Transport) -> None:
    """Let the next close send a reset instead of an end of file."""
    sock = transport.get_extra_info("socket")
    if sock is not None:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)


def has_unread(transport: asyncio.Transport) -> bool:
    """Return whether the socket has data that the loop has not read yet. A busy loop runs its timers first."""
    poll = select.poll()
    poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN)
    return bool(poll.poll(0))
