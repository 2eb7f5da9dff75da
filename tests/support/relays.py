"""A TCP relay in front of a real server that can delay, cut, silence and redirect connections."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from tests.support.listening import listening


class Relay:
    """Forwards every connection at `port` to the server behind it. `connect_delay` is in seconds per connection. While
    `silent`, no byte passes and no connection ends, as in a network failure. It becomes silent after the next bytes of
    a client that contain `last_words`. `accepted` counts connections.

    `answer_delay` delays bytes of the server by that many seconds; `subscription_delay` does the same for connections
    that have subscribed to a Redis channel. A new `target_port` applies to later connections.
    """

    def __init__(self, target_port: int) -> None:
        self.port = 0
        self.connect_delay = 0.0
        self.silent = False
        self.last_words: bytes | None = None
        self.accepted = 0
        self.answer_delay = 0.0
        self.subscription_delay = 0.0
        self.target_port = target_port
        self._subscribed: set[asyncio.StreamWriter] = set()
        self._pairs: set[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = set()

    def cut(self) -> None:
        """Reset every connection."""
        for pair in self._pairs:
            for writer in pair:
                writer.transport.abort()

    async def forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Handle one connection."""
        self.accepted += 1
        with suppress(OSError):
            async with _closing(writer):
                await asyncio.sleep(self.connect_delay)
                target_reader, target_writer = await asyncio.open_connection("127.0.0.1", self.target_port)
                async with _closing(target_writer):
                    pair = writer, target_writer
                    self._pairs.add(pair)
                    try:
                        await asyncio.gather(
                            self._ask(reader, target_writer, writer), self._answer(target_reader, writer)
                        )
                    finally:
                        self._pairs.discard(pair)

    async def _ask(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, client: asyncio.StreamWriter
    ) -> None:
        while data := await source.read(65536):
            if b"SUBSCRIBE" in data:
                self._subscribed.add(client)
            while self.silent:
                await asyncio.sleep(0.01)
            sink.write(data)
            if self.last_words is not None and self.last_words in data:
                self.last_words, self.silent = None, True
            await sink.drain()
        if not self.silent:
            sink.close()

    async def _answer(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        due = 0.0
        loop = asyncio.get_running_loop()
        while data := await source.read(65536):
            while self.silent:
                await asyncio.sleep(0.01)
            delay = self.subscription_delay if sink in self._subscribed else self.answer_delay
            due = max(due, loop.time() + delay)  # bytes never overtake each other
            if due > loop.time():
                loop.call_at(due, sink.write, data)
            else:
                sink.write(data)
                await sink.drain()
        self._subscribed.discard(sink)
        if not self.silent:
            sink.close()


@asynccontextmanager
async def _closing(writer: asyncio.StreamWriter) -> AsyncIterator[None]:
    """Close a connection at the end of the block; reset it after an error."""
    try:
        yield
        writer.close()
        await writer.wait_closed()
    finally:
        writer.transport.abort()
        with suppress(OSError):
            await writer.wait_closed()


@asynccontextmanager
async def relay_to(port: int) -> AsyncIterator[Relay]:
    """A relay on its own loopback port."""
    relay = Relay(port)
    async with listening(relay.forward) as relay.port:
        yield relay
