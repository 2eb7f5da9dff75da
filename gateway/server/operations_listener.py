"""The second door, where `server.operations_port` is set: `/_gateway/*` is served there and nothing else.

It stays open while the public one drains, so that whoever asks whether this process is ready hears that it is not, and
the last scrape finds something. Its connections are nobody's reason to wait.
"""

import asyncio
import socket
from functools import partial
from typing import Final

from uvicorn.config import Config
from uvicorn.server import ServerState

from gateway.server.protocol.connection import ClientConnection
from gateway.server.runtime import Runtime

_LAST_WORD: Final = 1.0  # seconds that an answer of its own may still take at the end
_GLANCE: Final = 0.02


class OperationsDoor:
    """Serves what comes to `listener` by `runtime`, which is the one for operations. `config` is uvicorn's."""

    def __init__(self, runtime: Runtime, config: Config, listener: socket.socket) -> None:
        self._runtime = runtime
        self._state = ServerState()
        self._make = partial(ClientConnection, runtime, config, self._state, {})
        self._listener = listener
        self._server: asyncio.AbstractServer | None = None

    async def open(self) -> None:
        """Let callers in."""
        self._server = await self._runtime.loop.create_server(self._make, sock=self._listener)
        self._runtime.ticker.subscribe(self._tick)

    async def close(self) -> None:
        """Let nobody in any more, and give the answers that are being made a moment."""
        if self._server is None:
            return
        self._server.close()
        for connection in list(self._state.connections):
            connection.shutdown()
        ends = self._runtime.loop.time() + _LAST_WORD
        while self._state.connections and self._runtime.loop.time() < ends:  # noqa: ASYNC110  # uvicorn's set tells nobody
            await asyncio.sleep(_GLANCE)
        self._runtime.ticker.unsubscribe(self._tick)
        for connection in list(self._state.connections):
            assert isinstance(connection, ClientConnection)
            connection.transport.abort()

    def _tick(self, now: float) -> None:
        for connection in list(self._state.connections):
            assert isinstance(connection, ClientConnection)
            connection.tick(now)
