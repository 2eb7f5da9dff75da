"""A request leaves no object that only the garbage collector frees, however it ends.

Objects in a cycle keep the request head and its frames until the next collection, and objects of an old generation stay
even longer. 31 KB for each request add up to gigabytes within a minute.
"""

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest

from gateway.identity.api_keys import new_key
from gateway.proxy.target import Target
from gateway.proxy.target_connector import TargetConnector
from tests.memory.garbage import unsearched
from tests.memory.serving import ServedHere
from tests.support.configurations import changed, standard, with_engine
from tests.support.processes import FACES, PASSWORD, Engine, Face, write_configuration
from tests.support.raw import NoAnswer
from tests.support.recording import Exchange, RecordingUpstream
from tests.support.token_factory import TokenFactory
from tests.support.upstreams import Upstreams
from tests.support.websockets import FarEnd, Socket, echoing, handshake, switching, text
from tests.support.websockets import close as close_frame
from tests.support.wording import bearer, chunked, request

Variant = tuple[Face, Engine]
VARIANTS: tuple[Variant, ...] = (("serve", "native"), ("asgi", "native"), ("serve", "httpx"), ("asgi", "httpx"))
LARGE = "X-Large: " + "x" * 14_000
LIMITED = {
    "path": "/limited/**",
    "auth": "none",
    "upstream": "web",
    "rate_limit": {"requests": 1, "per": "1h", "by": "address"},
}
NAMED = {"named": "localhost", "unknown": "no-such-host.invalid"}  # upstreams that cannot be connected
SHADOW = {"path": "/public/shadow", "roles": ["admin"], "upstream": "web", "shadow": True}


class Environment:
    """A gateway in this process and its upstream. `user` presents the token of a plain user."""

    def __init__(self, gateway: ServedHere, upstream: RecordingUpstream, database: Path) -> None:
        self.gateway = gateway
        self.upstream = upstream
        self.database = database
        self.user = gateway.register("user@example.com")

    # ---- requests

    def asks(self, target: str, *fields: str | bytes, method: str = "GET", **others: object) -> None:
        """Send a request, read the response and close."""
        self.sends(request(target, method=method, fields=fields, **others), method)  # type: ignore[arg-type]

    def sends(self, data: bytes, method: str = "GET") -> None:
        """Send these bytes, read the response and close."""
        with self.gateway.caller() as caller:
            caller.send(data)
            with contextlib.suppress(NoAnswer):
                caller.receive(method)

    def leaves(self, data: bytes, *, arrives: bool = False) -> None:
        """Send these bytes and close. With `arrives`, wait until the request has reached the upstream."""
        before = len(self.upstream.requests)
        with self.gateway.caller() as caller:
            caller.send(data)
            if arrives:
                self.upstream.arrived(before + 1)

    def reads_a_head(self, data: bytes) -> None:
        """Close after the head of the response."""
        with self.gateway.caller() as caller:
            caller.send(data).receive_head()

    def asks_twice(self, target: str, *fields: str | bytes) -> None:
        """Send the same head twice on one connection, then a different one."""
        with self.gateway.caller() as caller:
            for more in ((), (), (LARGE,)):
                caller.send(request(target, fields=[*fields, *more])).receive()

    # ---- WebSockets

    def speaks(self, target: str, *fields: bytes) -> None:
        """Send a message on a WebSocket, and close it."""
        with Socket(self.gateway.address, target, *fields) as socket:
            socket.say(text("hello")).message()
            socket.say(close_frame(1000)).closed()
            socket.ended()

    def vanishes(self, target: str) -> None:
        """Send a message on a WebSocket, and reset the connection."""
        socket = Socket(self.gateway.address, target)
        socket.say(text("hello")).message()
        socket.reset()

    def is_left(self, *, reset: bool) -> None:
        """Let the upstream close the WebSocket."""
        far = FarEnd()
        self.upstream.on("/public-sockets/far", far)
        with Socket(self.gateway.address, "/public-sockets/far") as socket:
            socket.say(text("hello"))
            far.frame()
            far.hang_up(reset=reset)
            socket.ended()


async def answer_in_chunks(exchange: Exchange) -> None:
    await exchange.body()
    await exchange.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", chunked(b"a" * 100, b"b"))


async def hint_first(exchange: Exchange) -> None:
    await exchange.body()
    await exchange.send(b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n")


async def break_off(exchange: Exchange) -> None:
    await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc")
    exchange.hang_up()


async def speak_nonsense(exchange: Exchange) -> None:
    await exchange.body()
    await exchange.send(b"HTTP/2.0 200 OK\r\n\r\n")
    exchange.hang_up()


async def hang_up(exchange: Exchange) -> None:
    await exchange.body()
    exchange.hang_up()


async def never_answer(exchange: Exchange) -> None:
    await exchange.body()
    await exchange.left()


async def stream_events(exchange: Exchange) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    await exchange.send(head, b"7\r\ndata:1\n\r\n")
    await exchange.left()


async def send_without_end(exchange: Exchange) -> None:
    await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 50000000\r\n\r\n")
    for _ in range(50):
        await exchange.send(b"x" * 1_000_000)


async def send_bad_frames(exchange: Exchange) -> None:
    await exchange.send(switching(exchange.request), b"\xff\xff\xff\xff")
    await exchange.left()


SCRIPTS = {
    "/public/chunks": answer_in_chunks,
    "/public/hints": hint_first,
    "/public/broken": break_off,
    "/public/nonsense": speak_nonsense,
    "/public/hung-up": hang_up,
    "/public/never": never_answer,
    "/hasty/never": never_answer,
    "/public/events": stream_events,
    "/api/events": stream_events,
    "/public/endless": send_without_end,
    "/public-sockets/x": echoing(),
    "/sockets/x": echoing(),
    "/public-sockets/bad": send_bad_frames,
}

Plays = dict[str, Callable[[Environment], object]]

ANSWERED: Plays = {
    "plain": lambda environment: environment.asks("/public/x"),
    "signed in": lambda environment: environment.asks("/api/x", environment.user),
    "kept alive": lambda environment: environment.asks_twice("/api/x", environment.user),
    "large": lambda environment: environment.asks("/public/x", LARGE),
    "HEAD": lambda environment: environment.asks("/public/x", method="HEAD"),
    "HTTP/1.0": lambda environment: environment.asks("/public/x", version="1.0"),
    "upload": lambda environment: environment.asks("/public/x", method="POST", body=b"x" * 100),
    "chunked upload": lambda environment: environment.sends(
        request("/public/x", method="POST", fields=["Transfer-Encoding: chunked"]) + chunked(b"abc", b"d"), "POST"
    ),
    "in chunks": lambda environment: environment.asks("/public/chunks"),
    "with hints": lambda environment: environment.asks("/public/hints"),
    "over TLS": lambda environment: environment.asks("/secure/x"),
    "OPTIONS that ends here": lambda environment: environment.asks(
        "/public/x", "Max-Forwards: 0", LARGE, method="OPTIONS"
    ),
    "TRACE that ends here": lambda environment: environment.asks(
        "/traced/x", environment.user, "Max-Forwards: 0", LARGE, method="TRACE"
    ),
    "tried in the shadow": lambda environment: environment.asks("/public/shadow"),
    "own": lambda environment: environment.asks("/auth/me", environment.user),
    "ready": lambda environment: environment.asks("/_gateway/ready"),
}

REFUSED: Plays = {
    "path": lambda environment: environment.asks("/public/%2e%2e/x", LARGE),
    "host": lambda environment: environment.asks("/public/x", host="a b"),
    "no host": lambda environment: environment.asks("/public/x", host=None),
    "no token": lambda environment: environment.asks("/api/x", LARGE),
    "bad token": lambda environment: environment.asks("/api/x", "Authorization: Bearer bad"),
    "malformed API key": lambda environment: environment.asks("/api/x", "Authorization: Bearer gwk_" + "a" * 38),
    "unknown API key": lambda environment: environment.asks("/api/x", bearer(new_key())),
    "bad token, optional": lambda environment: environment.asks("/optional/x", "Authorization: Bearer bad"),
    "role": lambda environment: environment.asks("/admin/x", environment.user),
    "route": lambda environment: environment.asks("/nowhere"),
    "method": lambda environment: environment.asks("/methods/x", method="DELETE"),
    "limit": lambda environment: environment.asks("/limited/x"),
    "large body": lambda environment: environment.asks("/small/x", method="POST", body=b"x" * 5000),
    "large chunked body": lambda environment: environment.sends(
        request("/small/x", method="POST", fields=["Transfer-Encoding: chunked"]) + chunked(b"x" * 5000), "POST"
    ),
    "malformed": lambda environment: environment.sends(b"GET / HTTP/1.1\r\nbad line\r\n\r\n"),
    "unknown method": lambda environment: environment.asks("/public/x", method="UNHEARD"),
    "CONNECT": lambda environment: environment.sends(b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n"),
    "coding": lambda environment: environment.asks("/public/x", "Transfer-Encoding: gzip, chunked"),
    "bad chunk": lambda environment: environment.leaves(
        request("/public/x", fields=["Transfer-Encoding: chunked"]) + b"zz\r\n"
    ),
    "large head": lambda environment: environment.asks("/public/x", "X: " + "x" * 40_000),
    "WebSocket": lambda environment: environment.sends(handshake("/public/x")),
    "WebSocket without token": lambda environment: environment.sends(handshake("/sockets/x")),
    "WebSocket of another page": lambda environment: environment.sends(
        handshake("/sockets-of-pages/x", "Origin: https://evil.example.com")
    ),
    "question of a stranger": lambda environment: environment.asks("/_gateway/verify"),
    "own, no token": lambda environment: environment.asks("/auth/me"),
    "own, no such path": lambda environment: environment.asks("/auth/nothing"),
}

ACCOUNTS: Plays = {
    "login": lambda environment: environment.gateway.post(
        "/auth/login", {"email": "user@example.com", "password": PASSWORD}
    ),
    "wrong password": lambda environment: environment.gateway.post(
        "/auth/login", {"email": "user@example.com", "password": "no"}
    ),
    "unknown account": lambda environment: environment.gateway.post(
        "/auth/login", {"email": "who@example.com", "password": "no"}
    ),
    "odd fields": lambda environment: environment.gateway.post("/auth/login", {"email": 3}),
    "no JSON": lambda environment: environment.asks(
        "/auth/login", "Content-Type: application/json", method="POST", body=b"{"
    ),
    "another media type": lambda environment: environment.asks("/auth/login", method="POST", body=b"{"),
    "address taken": lambda environment: environment.gateway.post(
        "/auth/register", {"email": "user@example.com", "password": PASSWORD}
    ),
    "bad refresh token": lambda environment: environment.gateway.post("/auth/refresh", {"refresh_token": "x"}),
    "left amid the body": lambda environment: environment.leaves(
        request("/auth/login", method="POST", fields=["Content-Type: application/json", "Content-Length: 100"])
    ),
}

FAILED: Plays = {
    "refused connection": lambda environment: environment.asks("/refusing/x"),
    "refused connection of a name": lambda environment: environment.asks("/named/x"),
    "unknown name": lambda environment: environment.asks("/unknown/x"),
    "no connection in time": lambda environment: environment.asks("/full-backlog/x"),
    "untrusted certificate": lambda environment: environment.asks("/untrusted/x"),
    "no answer in time": lambda environment: environment.asks("/hasty/never"),
    "no answer": lambda environment: environment.asks("/public/hung-up"),
    "nonsense": lambda environment: environment.asks("/public/nonsense"),
    "broken off": lambda environment: environment.asks("/public/broken"),
}

LEFT: Plays = {
    "without a byte": lambda environment: environment.leaves(b""),
    "amid the head": lambda environment: environment.leaves(b"GET /public/x HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 5000),
    "amid the body": lambda environment: environment.leaves(
        request("/public/x", method="POST", fields=["Content-Length: 1000000"]) + b"x" * 1000, arrives=True
    ),
    "amid a chunked body": lambda environment: environment.leaves(
        request("/public/x", method="POST", fields=["Transfer-Encoding: chunked"]) + b"5\r\nhello\r\n", arrives=True
    ),
    "before the answer": lambda environment: environment.leaves(request("/public/never"), arrives=True),
    "amid the answer": lambda environment: environment.reads_a_head(request("/public/endless")),
    "amid events": lambda environment: environment.reads_a_head(request("/public/events")),
    "amid events, signed in": lambda environment: environment.reads_a_head(
        request("/api/events", fields=[environment.user])
    ),
}

SOCKETS: Plays = {
    "closed": lambda environment: environment.speaks("/public-sockets/x"),
    "closed, signed in": lambda environment: environment.speaks("/sockets/x", environment.user),
    "reset": lambda environment: environment.vanishes("/public-sockets/x"),
    "left by the upstream": lambda environment: environment.is_left(reset=False),
    "reset by the upstream": lambda environment: environment.is_left(reset=True),
    "to nobody": lambda environment: environment.sends(handshake("/sockets-to-refusing/x")),
    "not switched": lambda environment: environment.sends(handshake("/public-sockets/none")),
    "bad frames": lambda environment: environment.reads_a_head(handshake("/public-sockets/bad")),
}

EVERY = {
    "answered": ANSWERED,
    "refused": REFUSED,
    "accounts": ACCOUNTS,
    "failed": FAILED,
    "left": LEFT,
    "sockets": SOCKETS,
}
OF_ENGINES = ("answered", "failed", "left")  # the others do not depend on the engine


@pytest.fixture(scope="module", autouse=True)
def scripts(upstreams: Upstreams) -> Iterator[None]:
    for path, script in SCRIPTS.items():
        upstreams.web.on(path, script)
    yield
    upstreams.web.forget()


@pytest.fixture(scope="module")
def environments(
    upstreams: Upstreams, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[Variant], Environment]]:
    """The environment of each face and engine, started at the first use."""
    with ExitStack() as stack:
        yield cache(
            lambda variant: stack.enter_context(
                serving(variant[0], variant[1], upstreams, tmp_path_factory.mktemp("gateway"))
            )
        )


@contextmanager
def serving(face: Face, engine: Engine, upstreams: Upstreams, folder: Path, **sections: Any) -> Iterator[Environment]:
    configuration = with_engine(standard(upstreams, TokenFactory(), folder), engine)
    sections = {"server": {"max_header_size": "32KiB"}, "observability": {"access_log": "off"}, **sections}
    configuration = changed(configuration, **sections)
    unreachable = [{"path": f"/{name}/**", "auth": "none", "upstream": name} for name in NAMED]
    configuration["routes"] += [LIMITED, SHADOW, *unreachable]
    for name, host in NAMED.items():
        port = upstreams.refusing.url.rpartition(":")[2]
        configuration["upstreams"][name] = {"targets": [f"http://{host}:{port}"], "engine": engine, "eject": None}
    gateway = ServedHere(face, write_configuration(folder, configuration)).start()
    try:
        yield Environment(gateway, upstreams.web, folder / "gateway.db")
    finally:
        gateway.stop()


@pytest.mark.parametrize(
    ("variant", "kind"),
    [
        pytest.param(variant, kind, id="-".join(["+".join(variant), kind]))
        for variant in VARIANTS
        for kind in (EVERY if variant[1] == "native" else OF_ENGINES)
    ],
)
def test_a_request_leaves_no_cycle(environments: Callable[[Variant], Environment], variant: Variant, kind: str) -> None:
    environment, plays = environments(variant), EVERY[kind]
    if not environment.gateway.garbage(lambda: [play(environment) for play in plays.values()]):
        return
    culprits = {
        name: found
        for name, play in plays.items()
        if (found := environment.gateway.garbage(partial(play, environment)))
    }
    assert not culprits
    raise AssertionError("only all of them together leave garbage")


@pytest.mark.parametrize("pause", [pytest.param(0.0, id="asked each time"), pytest.param(60.0, id="not asked again")])
@pytest.mark.parametrize("face", FACES)
def test_a_store_that_fails_leaves_no_cycle(
    face: Face, pause: float, upstreams: Upstreams, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After three failures the circuit breaker refuses for this pause without asking the store."""
    monkeypatch.setattr("gateway.storage.circuit_breaker.PAUSE", pause)
    with serving(face, "native", upstreams, tmp_path) as environment:
        newcomer = environment.gateway.register("newcomer@example.com")
        with contextlib.closing(sqlite3.connect(environment.database)) as database:
            for table in ("users", "api_keys"):
                database.execute(f"ALTER TABLE {table} RENAME TO {table}_elsewhere")
            database.commit()
        assert not environment.gateway.garbage(lambda: _ask_the_store(environment, newcomer))


def test_a_redis_that_is_down_leaves_no_cycle(upstreams: Upstreams, tmp_path: Path) -> None:
    address = upstreams.refusing.url.replace("http:", "redis:") + "/0"
    with serving("serve", "native", upstreams, tmp_path, storage={"redis": address}) as environment:
        plays = (ANSWERED["signed in"], REFUSED["limit"], REFUSED["unknown API key"], ACCOUNTS["wrong password"])
        assert not environment.gateway.garbage(lambda: [play(environment) for play in plays])


def _ask_the_store(environment: Environment, newcomer: bytes) -> None:
    for fields in ([newcomer], [bearer(new_key())]):
        assert environment.gateway.ask(request("/api/x", fields=fields)).status == 503
    login = {"email": "user@example.com", "password": PASSWORD}
    assert environment.gateway.post("/auth/login", login).status == 503


async def test_a_race_of_addresses_leaves_no_cycle(upstreams: Upstreams) -> None:
    async def two_addresses(host: str, port: int) -> list[str]:
        return ["127.0.0.1", "127.0.0.2"]

    loop = asyncio.get_running_loop()
    refusing = int(upstreams.refusing.url.rpartition(":")[2])
    for port, error in ((refusing, ConnectionRefusedError), (upstreams.web.address[1], None)):
        connector = TargetConnector(Target("orders.internal", port, None, None, "orders.internal"), loop, two_addresses)
        with unsearched() as found:
            with contextlib.suppress(*([] if error is None else [error])):
                await connector.connect(_Aborting, 5.0)
            await asyncio.sleep(0)
        assert not found.objects


class _Aborting(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()
