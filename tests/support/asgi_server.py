"""The ASGI application in this process, with a server's side of one WebSocket, message by message."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from starlette.applications import Starlette

from gateway.app import create_app
from gateway.policy.loader import load_configuration

Message = MutableMapping[str, Any]


@asynccontextmanager
async def serving(file: Path) -> AsyncIterator[Starlette]:
    app = create_app(load_configuration(file))
    async with app.router.lifespan_context(app):
        yield app


class Server:
    """A server's side of one connection. `sent` are the messages of the application."""

    def __init__(self, app: Starlette, path: str, /, **changes: Any) -> None:
        self.incoming: asyncio.Queue[Message] = asyncio.Queue()
        self.sent: list[Message] = []
        self.news = asyncio.Event()
        self.on_send: Callable[[Message], Awaitable[None]] | None = None
        self.say(type="websocket.connect")
        scope = {
            "type": "websocket",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "scheme": "ws",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(b"host", b"gateway.test")],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 2),
            "subprotocols": [],
            "extensions": {"websocket.http.response": {}},
        } | changes
        self.task = asyncio.create_task(app(scope, self.incoming.get, self._send))

    async def _send(self, message: Message) -> None:
        if self.on_send is not None:
            await self.on_send(message)
        self.sent.append(message)
        self.news.set()

    def say(self, **message: Any) -> None:
        self.incoming.put_nowait(message)

    async def expect(self, kind: str) -> Message:
        """Wait for a message of this type."""
        async with asyncio.timeout(5):
            while not any(message["type"] == kind for message in self.sent):
                self.news.clear()
                await self.news.wait()
        return next(message for message in self.sent if message["type"] == kind)

    async def over(self) -> None:
        async with asyncio.timeout(5):
            await self.task
