"""Responses over ASGI: under uvicorn, with and without its own log and fields, and from servers that wait."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message

from gateway.app import create_app
from gateway.policy.loader import load_configuration
from tests.server.asgi.servers import SERVERS, Marking, ServedApplication, installed
from tests.support.processes import Gateway, write_configuration
from tests.support.raw import Answer
from tests.support.recording import Exchange, RecordingUpstream, Script
from tests.support.small import small
from tests.support.wording import request

ROUTES: list[dict[str, Any]] = [{"path": "/open/**", "auth": "none", "upstream": "web"}]
BODY = b"a body of some length"
LARGE = b"x" * 300_000
INTERIM = b"HTTP/1.1 100 Continue\r\n\r\n"  # as uvicorn writes it


def responding(*pieces: bytes, hang_up: bool = False) -> Script:
    """Answer with these bytes."""

    async def script(exchange: Exchange) -> None:
        await exchange.body()
        await exchange.send(*pieces)
        if hang_up:
            exchange.hang_up()

    return script


def stated(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nX-Upstream: 1\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)
# The script of the upstream, and the status and the body for the client.
RESPONSES: dict[str, tuple[Script, int, bytes]] = {
    "a length": (responding(stated(BODY)), 200, BODY),
    "an empty body": (responding(stated(b"")), 200, b""),
    "a large body": (responding(stated(LARGE)), 200, LARGE),
    "the bytes of an interim response": (responding(stated(INTERIM)), 200, INTERIM),
    "the same bytes behind the head": (responding(*stated(INTERIM).partition(INTERIM)[:2]), 200, INTERIM),
    "chunks": (responding(CHUNKED), 200, BODY),
    "until the end": (responding(b"HTTP/1.1 200 OK\r\n\r\n" + BODY, hang_up=True), 200, BODY),
    "no content": (responding(b"HTTP/1.1 204 No Content\r\n\r\n"), 204, b""),
    "not modified": (responding(b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n"), 304, b""),
}
UVICORN = {"without own fields": [], "with own fields": ["--access-log", "--server-header", "--date-header"]}


class _Uvicorn(Gateway):
    """The application under uvicorn, with further options."""

    options: list[str]

    @property
    def arguments(self) -> list[str]:
        return [*super().arguments, *self.options]


@pytest.fixture(scope="module")
def upstream() -> Iterator[RecordingUpstream]:
    upstream = RecordingUpstream()
    for name, (script, *_) in RESPONSES.items():
        upstream.on(f"/open/{name.replace(' ', '-')}", script)
    yield upstream
    upstream.stop()


@pytest.fixture(scope="module", params=UVICORN)
def uvicorn(
    request: pytest.FixtureRequest, upstream: RecordingUpstream, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[_Uvicorn]:
    folder = tmp_path_factory.mktemp("uvicorn")
    gateway = _Uvicorn("asgi", small(folder, {"web": upstream.url}, routes=ROUTES), folder)
    gateway.options = UVICORN[request.param]
    gateway.start()
    yield gateway
    gateway.stop()


@pytest.mark.parametrize("name", RESPONSES)
def test_a_response_is_complete_for_each_kind_of_request(uvicorn: _Uvicorn, name: str) -> None:
    _, status, body = RESPONSES[name]
    path = f"/open/{name.replace(' ', '-')}"
    with uvicorn.caller() as caller:
        for _ in range(2):
            _check(caller.send(request(path)).receive(), status, body)
        head = caller.send(request(path, method="HEAD")).receive("HEAD")
        assert (head.status, head.body) == (status, b"")
        caller.send(request(path) + request(path))
        for _ in range(2):
            _check(caller.receive(), status, body)
        last = caller.send(request(path, fields=["Connection: close"])).receive()
        _check(last, status, body)
        assert last.value("connection") == b"close"
        caller.ended()


def _check(answer: Answer, status: int, body: bytes) -> None:
    assert (answer.status, answer.body, answer.whole) == (status, body, True)


def test_head_and_body_are_one_write(uvicorn: _Uvicorn) -> None:
    assert uvicorn.process is not None
    counters = Path(f"/proc/{uvicorn.process.pid}/io")
    if not counters.exists():
        pytest.skip("this system does not count the writes of a process")
    with uvicorn.caller() as caller:
        caller.send(request("/open/a-length")).receive()
        before = _writes(counters)
        for _ in range(50):
            caller.send(request("/open/a-length")).receive()
        # One to the upstream, and one to the client. A quarter of a second can have a write of its own.
        assert _writes(counters) - before < 50 * 2.5


def _writes(counters: Path) -> int:
    return int(next(line for line in counters.read_text().splitlines() if line.startswith("syscw")).split()[1])


@pytest.mark.parametrize("server", ["uvicorn with httptools", "uvicorn with h11", "hypercorn"])
def test_a_head_without_a_body_arrives_at_once(server: str, tmp_path: Path) -> None:
    if not installed(server):
        pytest.skip(f"{SERVERS[server][0]} is not installed")
    upstream, released = RecordingUpstream(), asyncio.Event()

    async def late(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 200 OK\r\nX-Late: body\r\nContent-Length: 4\r\n\r\n")
        await released.wait()
        await exchange.send(b"late")

    upstream.on("/open/late", late)
    served = ServedApplication(server, small(tmp_path, {"web": upstream.url}, routes=ROUTES), tmp_path)
    served.start()
    try:
        with served.caller() as caller:
            caller.send(request("/open/late"))
            got = b""
            while b"\r\n\r\n" not in got:
                got += caller.socket.recv(4096)
            assert b"x-late: body" in got.lower()
            upstream.call_soon(released.set)
            assert caller.socket.recv(4) == b"late"
    finally:
        served.stop()
        upstream.stop()


async def test_a_response_that_ends_while_the_client_is_slow_is_complete(tmp_path: Path) -> None:
    upstream, released = RecordingUpstream(), asyncio.Event()

    async def in_two_pieces(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n")
        await released.wait()
        await exchange.send(b"0\r\n\r\n")

    upstream.on("/open/pieces", in_two_pieces)
    path = write_configuration(
        tmp_path, small(tmp_path, {"web": upstream.url}, routes=ROUTES, storage={"database": "sqlite://"})
    )
    app = create_app(load_configuration(path))
    sent: list[Message] = []

    async def receive() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Message) -> None:
        if message.get("body"):
            upstream.call_soon(released.set)
            while _is_busy(app):
                await asyncio.sleep(0.01)
        sent.append(message)

    scope = {"type": "http", "asgi": {"version": "3.0"}, "method": "GET", "headers": [(b"host", b"shop.example")]}
    async with app.router.lifespan_context(app):
        await app(scope | {"path": "/open/pieces", "raw_path": b"/open/pieces"}, receive, send)
    upstream.stop()
    assert b"".join(message.get("body", b"") for message in sent) == b"body"
    assert [message.get("more_body") for message in sent][-1] is False


def _is_busy(app: Any) -> bool:
    """Whether the response of the upstream has not ended."""
    return any(
        sample.family == "gateway_upstream_connections" and sample.labels[-1] == "busy" and sample.value
        for sample in app.runtime.proxy.samples()
    )


@pytest.mark.parametrize("has_middleware", [False, True])
async def test_a_defect_is_one_response_and_an_exception_for_the_server(tmp_path: Path, has_middleware: bool) -> None:
    app = create_app(load_configuration(write_configuration(tmp_path, small(tmp_path, {}))))
    if has_middleware:
        app.add_middleware(Marking)
    sent: list[Message] = []

    async def receive() -> Message:
        raise AssertionError

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "asgi": {"version": "3.0"}, "path": "/", "raw_path": b"/", "headers": []}
    async with app.router.lifespan_context(app):
        with pytest.raises(KeyError, match="method"):
            await app(scope, receive, send)
        start, body = sent
        assert (start["status"], b"internal_error" in body["body"]) == (500, True)
        sent.clear()
        await app(scope | {"method": "GET"}, receive, send)
        start, body = sent
        assert start["status"] == 400
        assert ((b"x-marked", b"1") in start["headers"]) == has_middleware


async def test_an_exception_handler_of_an_embedding_program_answers_a_defect(tmp_path: Path) -> None:
    app = create_app(load_configuration(write_configuration(tmp_path, small(tmp_path, {}))))
    app.add_exception_handler(Exception, _apologise)
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        raise AssertionError

    scope = {"type": "http", "asgi": {"version": "3.0"}, "path": "/", "raw_path": b"/", "headers": []}
    async with app.router.lifespan_context(app):
        for _ in range(2):
            with pytest.raises(KeyError, match="method"):
                await app(scope, receive, send)
    assert [message["body"] for message in sent if message["type"] == "http.response.body"] == [b"sorry"] * 2


async def _apologise(request: Request, error: Exception) -> Response:
    return Response(b"sorry", 503)
