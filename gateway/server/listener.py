"""The listening sockets: opened for clients, and closed without resetting accepted connections."""

import asyncio
import ctypes
import socket
import struct
from contextlib import ExitStack, suppress
from functools import partial
from typing import Final, NamedTuple

from uvicorn.config import Config
from uvicorn.server import ServerState

from gateway.errors import CannotStart
from gateway.server.protocol.connection import ClientConnection
from gateway.server.runtime import Runtime
from gateway.settings.model import ServerSettings

BACKLOG: Final = 2048
# The time for handshakes that have begun. It covers the round trip to most clients, and a busy machine.
HANDSHAKE: Final = 0.1  # seconds
# Linux: attach a packet filter to a socket. A socket of TCP passes packets from their TCP header on (RFC 9293 3.1).
_SO_ATTACH_FILTER: Final = 26
_INSTRUCTIONS: Final = (
    (0x30, 0, 0, 13),  # BPF_LD, BPF_B, BPF_ABS: load the flags
    (0x45, 0, 1, 0x02),  # BPF_JMP, BPF_JSET: without SYN, skip one instruction
    (0x06, 0, 0, 0),  # BPF_RET: drop the packet
    (0x06, 0, 0, 0xFFFFFFFF),  # BPF_RET: keep all of it
)
_FILTER: Final = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *each) for each in _INSTRUCTIONS))


def listen(host: str, port: int, *, key: str = "port") -> socket.socket:
    """Open a listening socket for `server.KEY`. Raises CannotStart."""
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


def address_of(listener: socket.socket, host: str, scheme: str = "http") -> str:
    """Return the URL of a listening socket, for messages."""
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"


def stop_accepting(listener: socket.socket) -> None:
    """Drop new connections in all processes that listen on the socket.

    A client that connects now gets no answer, and its retry after a second is refused. Without this, a client could
    connect between the last accept and the close of the socket, and the kernel would reset its connection. A handshake
    that has begun still completes, within HANDSHAKE: its client sends the request as soon as the kernel has answered.
    """
    with suppress(OSError):  # not available on every system
        program = struct.pack("HL", len(_INSTRUCTIONS), ctypes.addressof(_FILTER))
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)


def drain_backlog(listener: socket.socket) -> list[socket.socket]:
    """Close the socket and return the connections that the kernel has accepted and no process has taken. The kernel
    would reset them, although their clients may have sent requests."""
    waiting: list[socket.socket] = []
    with listener, suppress(OSError):
        while len(waiting) < BACKLOG:
            one, _ = listener.accept()
            one.setblocking(False)
            waiting.append(one)
    return waiting


class Listeners(NamedTuple):
    """The listening sockets. `operations` is None if the public one serves operations."""

    public: socket.socket
    operations: socket.socket | None

    @classmethod
    def open(cls, server: ServerSettings, stack: ExitStack) -> "Listeners":
        """Open the sockets; `stack` closes them. Raises CannotStart."""
        public, operations = stack.enter_context(listen(server.host, server.port)), None
        if server.operations_port is not None:
            operations = stack.enter_context(listen(server.host, server.operations_port, key="operations_port"))
        return cls(public, operations)

    def address(self, server: ServerSettings) -> str:
        """Return the URLs of the sockets, for messages."""
        public = address_of(self.public, server.host, "https" if server.tls else "http")
        if self.operations is None:
            return public
        return f"{public}, operations on {address_of(self.operations, server.host)}"

    def close(self) -> None:
        """Close the sockets in this process."""
        for listener in self:
            if listener is not None:
                listener.close()


# The second listener, with `server.operations_port`. It serves only `/_gateway/*`.
#
# It stays open while the public listener drains, so that readiness checks see the drain and the last scrape succeeds.
# The drain does not wait for its connections.
_LAST_WORD: Final = 1.0  # seconds for responses in progress at the end
_GLANCE: Final = 0.02


class OperationsListener:
    """Serves connections of `listener` with `runtime`, the runtime for operations. `config` is uvicorn's."""

    def __init__(self, runtime: Runtime, config: Config, listener: socket.socket) -> None:
        self._runtime = runtime
        self._state = ServerState()
        self._make = partial(ClientConnection, runtime, config, self._state, {})
        self._listener = listener
        self._server: asyncio.AbstractServer | None = None

    async def open(self) -> None:
        """Accept connections."""
        self._server = await self._runtime.loop.create_server(self._make, sock=self._listener)
        self._runtime.ticker.subscribe(self._tick)

    async def close(self) -> None:
        """Stop accepting connections, and give responses in progress a moment."""
        if self._server is None:
            return
        self._server.close()
        for connection in list(self._state.connections):
            connection.shutdown()
        ends = self._runtime.loop.time() + _LAST_WORD
        while self._state.connections and self._runtime.loop.time() < ends:  # noqa: ASYNC110  # uvicorn's set has no event
            await asyncio.sleep(_GLANCE)
        self._runtime.ticker.unsubscribe(self._tick)
        for connection in list(self._state.connections):
            assert isinstance(connection, ClientConnection)
            connection.transport.abort()

    def _tick(self, now: float) -> None:
        for connection in list(self._state.connections):
            assert isinstance(connection, ClientConnection)
            connection.tick(now)
