"""What is asked of the socket of a caller below its transport."""

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
    """Whether something has come that the loop has not read yet: a busy loop looks at the time first."""
    poll = select.poll()
    poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN)
    return bool(poll.poll(0))
