"""The path of one proxied request without sockets: client and upstream connections with transports in memory.

Everything in between is the real gateway: protocol, gate, forwarding, engine, metrics. The costs can therefore be
counted exactly and reproducibly: bytecode instructions, calls, processor instructions.
"""

import asyncio
import json
import re
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle
from uvicorn.server import ServerState

from bench.load import request_bytes
from bench.peers.gateway import EMAIL, PASSWORD, GatewayServe
from bench.peers.peer import FORBIDDEN, ITEM, Place
from bench.peers.signer import Signer
from bench.processes import BenchError
from bench.traffic import caller_headers
from bench.upstream import BODY
from gateway.policy.loader import Configuration, load_configuration
from gateway.proxy.connection_pool import ConnectionPool
from gateway.proxy.native.http11 import UpstreamConnection
from gateway.proxy.upstream import Upstream
from gateway.server.asgi.app import AsgiApp
from gateway.server.asgi.uvicorn_protocol import JoiningProtocol
from gateway.server.composition import running
from gateway.server.protocol.connection import ClientConnection
from gateway.server.runtime import Runtime

PORT = 8123
RESPONSE = (
    b"HTTP/1.1 200 OK\r\nServer: nginx/1.22.1\r\nDate: Sun, 22 Nov 2026 13:00:00 GMT\r\n"
    b"Content-Type: application/json\r\nContent-Length: %d\r\nConnection: keep-alive\r\n\r\n" % len(BODY)
) + BODY
PEER = ("127.0.0.1", 50_000)
PATIENCE = 100.0  # seconds; valgrind is fifty times slower


class Wire:
    """A transport that keeps the last written data."""

    def __init__(self) -> None:
        self.last: bytes | None = None
        self.closing = False

    def write(self, data: bytes) -> None:
        self.last = data

    def writelines(self, pieces: Sequence[bytes]) -> None:
        self.last = b"".join(pieces)

    def get_extra_info(self, name: str, default: object = None) -> object:
        return PEER if name == "peername" else default

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    abort = close

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def can_write_eof(self) -> bool:
        return False


class Upstreams:
    """The connections to all targets. `asked` received the last request."""

    asked: UpstreamConnection
    last: bytes | None = None


class UpstreamWire(Wire):
    """The transport of a connection to a target."""

    def __init__(self, upstreams: Upstreams, connection: UpstreamConnection) -> None:
        super().__init__()
        self._upstreams = upstreams
        self._connection = connection

    def write(self, data: bytes) -> None:
        self._upstreams.last, self._upstreams.asked = data, self._connection


class _UvicornConnection(JoiningProtocol):
    """A client connection of uvicorn. The scenario runs its requests, in place of tasks."""

    request: Coroutine[Any, Any, None]

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self.request = cycle.run_asgi(app)


class InMemoryHarness:
    """One client, and one connection to each target, all kept alive."""

    def __init__(self, configuration: Configuration, runtime: Runtime, token: str, cookie: str | None = None) -> None:
        """`cookie` is the Cookie field of a browser that is signed in, in place of the token."""
        self.configuration = configuration
        self.runtime = runtime
        self.caller, self.to_caller = _connection(runtime)
        (engine,) = runtime.proxy.engines.values()
        assert isinstance(engine, Upstream)
        self.to_upstream = Upstreams()
        for pool in engine.pools:
            assert isinstance(pool, ConnectionPool)
            connection = UpstreamConnection(pool.queue, pool)
            connection.connection_made(UpstreamWire(self.to_upstream, connection))  # type: ignore[arg-type]
        self._token = token
        self._cookie = cookie
        self._turn = 0

    def request(self, path: str, *further: tuple[str, str], token: str | None = None) -> bytes:
        """A GET request of the client."""
        headers = self._headers(token)
        return request_bytes(f"http://127.0.0.1:{PORT}{path}", [*headers, *further])

    def _headers(self, token: str | None = None) -> list[tuple[str, str]]:
        headers = caller_headers(token or self._token)
        return headers if self._cookie is None or token else [*headers[:-1], ("Cookie", self._cookie)]

    def serve(self, request: bytes, response: bytes = RESPONSE) -> None:
        """Play one request and its response. Raises BenchError unless the request is sent to an upstream at once."""
        upstreams = self.to_upstream
        upstreams.last = None
        self.caller.data_received(request)
        if upstreams.last is None:
            raise BenchError(f"not sent on: {request!r:.200}")
        upstreams.asked.data_received(response)

    def scenarios(self) -> dict[str, Callable[[], None]]:
        """The scenarios by name. Each call plays one request and its response."""
        repeated, refused = self.request(ITEM), self.request(FORBIDDEN)

        def same() -> None:
            self.serve(repeated)

        def turned(request: bytes) -> bytes:
            self._turn += 1
            return request[:-2] + b"X-Turn: %08d\r\n\r\n" % self._turn

        def fresh() -> None:
            self.serve(turned(repeated), RESPONSE.replace(b"13:00:00", b"%08d" % self._turn))

        def forbidden() -> None:
            self.caller.data_received(turned(refused))

        return {"repeated": same, "fresh": fresh, "refused": forbidden, "asgi": self._over_asgi()}

    def _over_asgi(self) -> Callable[[], None]:
        """The same request through uvicorn's protocol and the ASGI application, without the loop. The application
        suspends once, for the upstream."""
        app = AsgiApp(self.configuration)
        app.runtime = self.runtime
        config = Config(app, http="httptools", log_config=None, access_log=False, proxy_headers=False)
        config.load()
        limit = self.configuration.settings.server.max_header_size
        protocol, wire = _UvicornConnection(limit, config, ServerState(), {}), Wire()
        protocol.connection_made(wire)  # type: ignore[arg-type]
        request = self.request(ITEM)

        def asgi() -> None:
            protocol.data_received(request)
            coroutine = protocol.request
            coroutine.send(None)
            self.to_upstream.asked.data_received(RESPONSE)
            try:
                coroutine.send(None)
            except StopIteration:
                return
            raise BenchError("the answer of the upstream did not end the request")

        return asgi

    def prove(self) -> None:
        """Check that a request is answered correctly. Raises BenchError."""
        self.to_caller.last = None
        self.serve(self.request(ITEM))
        if self.to_caller.last is None or not self.to_caller.last.startswith(b"HTTP/1.1 200"):
            raise BenchError(f"the stage answered {self.to_caller.last!r:.200}")


@asynccontextmanager
async def staged(
    access_log: str = '"off"',
    *,
    routes: int = 10,
    targets: int = 1,
    cached: int = 100_000,
    credential: Literal["token", "token beside sessions", "cookie"] = "token",
) -> AsyncIterator[InMemoryHarness]:
    """A stage that is ready: the client is signed in and cached, and each connection has served a request. At most
    `cached` users are cached. Sessions of browsers are configured unless the `credential` is `token`."""
    with tempfile.TemporaryDirectory(prefix="gateway-stage-") as folder:
        peer = GatewayServe()
        peer.access_log, peer.routes = access_log, routes  # type: ignore[misc]
        place = Place(Path(folder), PORT, 9, Signer())
        text = peer.configuration(place)
        several = ", ".join(f'"http://127.0.0.{number + 1}:9"' for number in range(targets))
        # The connections have no peer that could close them; they stay idle while a scenario is traced.
        text = text.replace(f'targets: ["{place.upstream}"]', f"targets: [{several}], keep_alive: 1h")
        text += f"cache: {{user_ttl: 1h, max_local_entries: {cached}}}\n"
        if credential != "token":
            public_url = f"http://127.0.0.1:{PORT}"
            text = text.replace("server:\n", f"sessions: {{}}\nserver:\n  public_url: {public_url}\n", 1)
        configuration = load_configuration(place.write("gateway.yaml", text), {})
        async with running(configuration) as (runtime, _):
            token = await _signed_in(runtime)
            cookie = await _cookie(runtime) if credential == "cookie" else None
            stage = InMemoryHarness(configuration, runtime, token, cookie)
            await _introduce(stage)
            yield stage


async def _introduce(stage: InMemoryHarness) -> None:
    """Play the first request, which looks the user up and therefore reaches the upstream later."""
    stage.caller.data_received(stage.request(ITEM))
    async with asyncio.timeout(PATIENCE):
        while stage.to_upstream.last is None:
            await asyncio.sleep(0.01)
    stage.to_upstream.asked.data_received(RESPONSE)
    stage.prove()


async def _signed_in(runtime: Runtime) -> str:
    _, content = await _signed_in_at(runtime, "/auth/register")
    answer: dict[str, Any] = json.loads(content)
    return str(answer["access_token"])


async def _cookie(runtime: Runtime) -> str:
    """The Cookie field of a browser that has just signed in."""
    head, _ = await _signed_in_at(runtime, "/auth/session")
    found = re.search(rb"set-cookie: ([^;]+)", head, re.IGNORECASE)
    if found is None:
        raise BenchError(f"no cookie: {head!r:.200}")
    return found[1].decode()


async def _signed_in_at(runtime: Runtime, path: str) -> tuple[bytes, bytes]:
    """Head and body of the response to a sign-in."""
    body = json.dumps({"email": EMAIL, "password": PASSWORD}).encode()
    caller, wire = _connection(runtime)
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{PORT}\r\nOrigin: http://127.0.0.1:{PORT}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    )
    caller.data_received(head.encode() + b"\r\n" + body)
    async with asyncio.timeout(PATIENCE):
        while wire.last is None:
            await asyncio.sleep(0.01)
    answer, _, content = wire.last.partition(b"\r\n\r\n")
    return answer, content


def _connection(runtime: Runtime) -> tuple[ClientConnection, Wire]:
    protocol, wire = ClientConnection(runtime, None, ServerState(), {}), Wire()  # type: ignore[arg-type]
    protocol.connection_made(wire)  # type: ignore[arg-type]
    return protocol, wire
