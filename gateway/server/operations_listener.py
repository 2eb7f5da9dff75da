"""The second listener, with `server.operations_port`. It serves only `/_gateway/*`.

It stays open while the public listener drains, so that readiness checks see the drain and the last scrape succeeds. The
drain does not wait for its connections.
"""

import asyncio
import socket
from functools import partial
from typing import Final

from uvicorn.config import Config
from uvicorn.server import ServerState

from gateway.server.protocol.connection import ClientConnection
from gateway.server.runtime import Runtime

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
