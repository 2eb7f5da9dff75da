"""TCP servers in an event loop whose connections end with them."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def small_listener(address: tuple[str, int] = ("127.0.0.1", 0)) -> socket.socket:
    """A listening socket whose connections receive about 64 KiB that are not read. The default can be 32 MiB."""
    listener = socket.create_server(address, reuse_port=True)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
    return listener


class Connections:
    """The connections of one server. `accept` is the callback for `asyncio.start_server`, and runs `handle` in a task.

    asyncio itself loses a connection whose handler is cancelled before it starts.
    """

    def __init__(self, handle: Handler) -> None:
        self._handle = handle
        self._open: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._open[task] = writer
        task.add_done_callback(self._ended)

    async def close(self) -> None:
        """Cancel all handlers, and close their connections."""
        await _a_few_turns()  # connections that are just being accepted
        while tasks := tuple(self._open):
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await _a_few_turns()  # the transports close their sockets in the next turn

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._handle(reader, writer)
        finally:
            writer.close()
        with suppress(OSError):
            await writer.wait_closed()

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._open.pop(task).transport.abort()


async def _a_few_turns() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


@asynccontextmanager
async def listening(
    handle: Handler, host: str = "127.0.0.1", port: int = 0, *, tls: ssl.SSLContext | None = None
) -> AsyncIterator[int]:
    """A server that runs while the block does. Yields its port."""
    connections = Connections(handle)
    server = await asyncio.start_server(connections.accept, host, port, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await connections.close()
