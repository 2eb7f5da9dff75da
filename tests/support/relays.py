"""A TCP relay in front of a real server, which can be slow to accept, cut its connections, and fall silent."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress


class Relay:
    """Forwards every connection at `port` to the server behind it. `connect_delay` is in seconds, for each connection.
    While `silent`, no byte passes and no connection ends, as with a network that is gone. `accepted` counts."""

    def __init__(self, target_port: int) -> None:
        self.port = 0
        self.connect_delay = 0.0
        self.silent = False
        self.accepted = 0
        self._target_port = target_port
        self._pairs: set[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def cut(self) -> None:
        """Reset every connection."""
        for pair in self._pairs:
            for writer in pair:
                writer.transport.abort()

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        task = asyncio.get_running_loop().create_task(self._forward(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def close(self) -> None:
        self.cut()
        for task in self._tasks:
            task.cancel()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(self.connect_delay)
        try:
            target_reader, target_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
        except OSError:
            writer.transport.abort()
            return
        pair = writer, target_writer
        self._pairs.add(pair)
        with suppress(OSError):
            await asyncio.gather(self._copy(reader, target_writer), self._copy(target_reader, writer))
        self._pairs.discard(pair)

    async def _copy(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(65536):
            while self.silent:
                await asyncio.sleep(0.01)
            sink.write(data)
            await sink.drain()
        if not self.silent:
            sink.close()


@asynccontextmanager
async def relay_to(port: int) -> AsyncIterator[Relay]:
    """A relay on a loopback port of its own."""
    relay = Relay(port)
    server = await asyncio.start_server(relay.accept, "127.0.0.1", 0)
    relay.port = server.sockets[0].getsockname()[1]
    try:
        yield relay
    finally:
        relay.close()
        server.close()
