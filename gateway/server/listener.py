"""The socket that callers come to: how it is opened, and how it is closed without turning away whoever has come."""

import ctypes
import socket
import struct
from contextlib import ExitStack, suppress
from typing import Final, NamedTuple

from gateway.errors import CannotStart
from gateway.settings.model import ServerSettings

BACKLOG: Final = 2048
# Linux: a filter on a socket, here one of a single instruction (BPF_RET with 0: take nothing of it).
_SO_ATTACH_FILTER: Final = 26
_NOTHING: Final = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0))


def listen(host: str, port: int, *, key: str = "port") -> socket.socket:
    """A socket that listens there, as `server.KEY` asks. Raises CannotStart."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(BACKLOG)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise CannotStart(
            f"cannot listen on {host} port {port}: {error.strerror or error} (choose another "
            + ("with --host and --port, or with server.host and server.port)" if key == "port" else f"server.{key})")
        ) from None
    listener.setblocking(False)
    return listener


def address_of(listener: socket.socket, host: str) -> str:
    """Where it listens, as it is told to people."""
    return f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"


def shut_out(listener: socket.socket) -> None:
    """Let nobody come any more who has not come yet, in no process that listens here.

    A caller that comes now is not answered, asks again after a second, and finds nobody. Without this, a caller could
    come between the moment in which there was nobody left to let in and the one in which the socket is closed, and
    the kernel would reset its connection.
    """
    with suppress(OSError):  # not on every system
        program = struct.pack("HL", 1, ctypes.addressof(_NOTHING))
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)


def last_in(listener: socket.socket) -> list[socket.socket]:
    """Close it, and give back the connections that the kernel has accepted and nobody has taken: it would reset them,
    and their callers may have sent their requests."""
    waiting: list[socket.socket] = []
    with listener, suppress(OSError):
        while len(waiting) < BACKLOG:
            one, _ = listener.accept()
            one.setblocking(False)
            waiting.append(one)
    return waiting


class Doors(NamedTuple):
    """The sockets that callers come to; `operations` is None where operations are served on the public one."""

    public: socket.socket
    operations: socket.socket | None

    @classmethod
    def listening(cls, server: ServerSettings, stack: ExitStack) -> "Doors":
        """They listen until `stack` closes them. Raises CannotStart."""
        public, operations = stack.enter_context(listen(server.host, server.port)), None
        if server.operations_port is not None:
            operations = stack.enter_context(listen(server.host, server.operations_port, key="operations_port"))
        return cls(public, operations)

    def address(self, host: str) -> str:
        """Where they listen, as it is told to people."""
        public = address_of(self.public, host)
        return public if self.operations is None else f"{public}, operations on {address_of(self.operations, host)}"

    def close(self) -> None:
        """In this process."""
        for door in self:
            if door is not None:
                door.close()
