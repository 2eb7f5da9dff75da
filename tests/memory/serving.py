"""A gateway in this process, so that tests can inspect its garbage. It uses real sockets and an event loop in a
thread."""

import asyncio
import json
import socket
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import uvicorn
import uvloop
from uvicorn.server import ServerState

from gateway.app import create_app
from gateway.policy.loader import load_configuration
from gateway.server.composition import running
from gateway.server.protocol.connection import ClientConnection
from tests.memory.garbage import unsearched
from tests.support.processes import PASSWORD, Face
from tests.support.raw import Address, Answer, Caller, ask
from tests.support.waiting import eventually, until
from tests.support.wording import bearer, request

READY_SECONDS = 20
TURNS = 3  # of the event loop, in which callbacks and the tasks that they wake complete


class ServedHere:
    """One gateway. `start` returns when it listens."""

    def __init__(self, face: Face, configuration: Path) -> None:
        self.address: Address = ("127.0.0.1", 0)
        self._face = face
        self._configuration = load_configuration(configuration, {})
        self._thread = threading.Thread(target=lambda: uvloop.run(self._serve()), name=f"gateway-{face}")
        self._ready = threading.Event()
        self._over = asyncio.Event()
        self._connections: set[Any] = set()

    def start(self) -> "ServedHere":
        self._thread.start()
        assert self._ready.wait(READY_SECONDS), "the gateway does not start"
        return self

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(READY_SECONDS)

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        async with self._protocol() if self._face == "serve" else self._asgi():
            self._ready.set()
            await self._over.wait()

    @asynccontextmanager
    async def _protocol(self) -> AsyncIterator[None]:
        """Serve like `gateway serve`, without signals and without draining."""
        state = ServerState()
        self._connections = state.connections

        def tick(now: float) -> None:
            for connection in list(state.connections):
                connection.tick(now)  # type: ignore[union-attr]

        async with running(self._configuration) as (runtime, _):
            config = uvicorn.Config(runtime.api)
            runtime.ticker.subscribe(tick)
            async with await self._loop.create_server(
                lambda: ClientConnection(runtime, config, state, {}), "127.0.0.1", 0
            ) as server:
                self.address = server.sockets[0].getsockname()[:2]
                yield

    @asynccontextmanager
    async def _asgi(self) -> AsyncIterator[None]:
        listener = socket.create_server(self.address)
        self.address = listener.getsockname()[:2]
        app = create_app(self._configuration)
        server = uvicorn.Server(uvicorn.Config(app, http="httptools", log_level="critical", proxy_headers=False))
        serving = asyncio.create_task(server.serve([listener]))
        await until(lambda: server.started)
        self._connections = server.server_state.connections
        yield
        server.should_exit = True
        await serving

    # ---- requests

    def caller(self) -> Caller:
        return Caller(self.address)

    def ask(self, data: bytes) -> Answer:
        return ask(self.address, data)

    def post(self, target: str, body: Mapping[str, object], *fields: str | bytes) -> Answer:
        lines = ["Content-Type: application/json", *fields]
        return self.ask(request(target, method="POST", fields=lines, body=json.dumps(body).encode()))

    def register(self, email: str) -> bytes:
        """Create an account and return the field line with its token."""
        answer = self.post("/auth/register", {"email": email, "password": PASSWORD})
        assert answer.status == 201, answer.body
        return bearer(answer.json()["access_token"])

    # ---- garbage

    def garbage(self, play: Any) -> list[str]:
        """Return the objects of the gateway that only the garbage collector frees after `play`."""
        play()  # once for objects that stay: caches, imports
        self._settle()
        with unsearched() as found:
            play()
            self._settle()
        return found.objects

    def _settle(self) -> None:
        """Wait until all connections are closed and their callbacks have run."""
        eventually(lambda: not self._connections)
        for _ in range(TURNS):
            asyncio.run_coroutine_threadsafe(asyncio.sleep(0), self._loop).result(5)
