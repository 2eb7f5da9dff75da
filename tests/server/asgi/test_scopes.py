"""Scopes without optional keys, applications that mount the gateway, and servers that do not run a lifespan."""

import asyncio
import importlib.util
import socket
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvloop
import yaml
from starlette.applications import Starlette
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from gateway.app import create_app
from gateway.errors import ConfigurationError
from gateway.observability.metrics.metrics import Metrics
from gateway.policy.loader import load_configuration
from tests.server.asgi.servers import mounting
from tests.support.processes import Gateway
from tests.support.recording import RecordingUpstream
from tests.support.small import small
from tests.support.waiting import eventually
from tests.support.websockets import echoing

ROUTES: list[dict[str, Any]] = [
    {"path": "/open/**", "auth": "none", "upstream": "web"},
    {"path": "/sockets/**", "auth": "none", "websocket": True, "upstream": "web"},
    {"path": "/private/**", "auth": "required", "upstream": "web"},
]


@pytest.fixture
def app(tmp_path: Path, upstream: RecordingUpstream) -> Starlette:
    configuration = small(tmp_path, {"web": upstream.url}, storage={"database": "sqlite://"})
    configuration["routes"] = ROUTES
    path = tmp_path / "gateway.yaml"
    path.write_text(yaml.safe_dump(configuration))
    return create_app(load_configuration(path))


# ---- optional keys


async def answered(app: Any, scope: dict[str, Any], *messages: dict[str, Any]) -> list[dict[str, Any]]:
    """Return all messages that the application sends for this scope."""
    sent: list[dict[str, Any]] = []
    waiting = [*messages]

    async def receive() -> dict[str, Any]:
        if waiting:
            return waiting.pop(0)
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return sent


REQUEST = {"type": "http.request", "body": b"", "more_body": False}
HOST = [(b"host", b"shop.example")]
# Keys that the ASGI specification lets a server omit, with the equivalent value.
OPTIONAL: dict[str, Any] = {
    "scheme": "http",
    "query_string": b"",
    "root_path": "",
    "client": None,
    "server": None,
    "extensions": None,
    "state": None,
    "http_version": "1.1",
}


@pytest.mark.parametrize("path, status", [("/open/x", 200), ("/private/x", 401), ("/auth/me", 401), ("/nowhere", 404)])
@pytest.mark.parametrize("given", [{}, OPTIONAL], ids=["left out", "empty"])
async def test_a_request_without_optional_keys_is_served(
    app: Starlette, path: str, status: int, given: dict[str, Any]
) -> None:
    scope = {"type": "http", "asgi": {"version": "3.0"}, "method": "GET", "path": path, "raw_path": path.encode()}
    async with app.router.lifespan_context(app):
        sent = await answered(app, scope | {"headers": HOST} | given, REQUEST)
    assert sent[0]["status"] == status


@pytest.mark.parametrize("version, status", [("1", 200), ("1.0", 200), ("2", 200), ("3", 200), ("0.9", 400)])
async def test_a_request_has_any_version_that_servers_pass_on(app: Starlette, version: str, status: int) -> None:
    scope = {"type": "http", "asgi": {"version": "3.0"}, "method": "GET", "path": "/open/x", "raw_path": b"/open/x"}
    async with app.router.lifespan_context(app):
        sent = await answered(app, scope | {"headers": HOST, "http_version": version}, REQUEST)
    assert sent[0]["status"] == status


@pytest.mark.parametrize("path, status", [("/private/x", 401), ("/nowhere", 404), ("/_gateway/health", 200)])
async def test_a_response_to_head_has_a_length_and_no_body(app: Starlette, path: str, status: int) -> None:
    scope = {"type": "http", "asgi": {"version": "3.0"}, "method": "HEAD", "path": path, "raw_path": path.encode()}
    async with app.router.lifespan_context(app):
        sent = await answered(app, scope | {"headers": HOST}, REQUEST)
    assert sent[0]["status"] == status
    assert int(dict(sent[0]["headers"])[b"content-length"]) > 0
    assert [message["body"] for message in sent[1:]] == [b""]


@pytest.mark.parametrize("version, values", [("1.1", [b"close"]), ("2", []), ("3", [])])
async def test_a_refused_upload_closes_no_connection_with_other_requests(
    app: Starlette, version: str, values: list[bytes]
) -> None:
    scope = {"type": "http", "asgi": {"version": "3.0"}, "method": "POST", "http_version": version}
    fields = [*HOST, (b"content-length", b"5")]
    async with app.router.lifespan_context(app):
        for path in ("/private/x", "/nowhere"):
            sent = await answered(app, scope | {"headers": fields, "path": path, "raw_path": path.encode()})
            assert [value for name, value in sent[0]["headers"] if name == b"connection"] == values


SHAPES: dict[str, Any] = {
    "lists": [[b"host", b"shop.example"], [b"accept", b"text/html"]],
    "a tuple of tuples": ((b"host", b"shop.example"), (b"accept", b"text/html")),
    "a tuple of lists": ([b"host", b"shop.example"], [b"accept", b"text/html"]),
}


@pytest.mark.parametrize("headers", SHAPES.values(), ids=SHAPES)
async def test_fields_have_any_shape_that_the_specification_allows(
    app: Starlette, upstream: RecordingUpstream, headers: Any
) -> None:
    scope = {"asgi": {"version": "3.0"}, "method": "GET", "headers": headers}
    async with app.router.lifespan_context(app):
        for path, status in (("/open/x", 200), ("/auth/me", 401)):
            sent = await answered(app, scope | {"type": "http", "path": path, "raw_path": path.encode()}, REQUEST)
            assert sent[0]["status"] == status
        assert upstream.only.values("accept") == [b"text/html"]
        handshake = scope | {"type": "websocket", "path": "/private/x", "raw_path": b"/private/x"}
        sent = await answered(app, handshake, {"type": "websocket.connect"})
        assert sent == [{"type": "websocket.close", "code": 1008}]


async def test_a_request_without_headers_has_no_host(app: Starlette) -> None:
    scope = {"type": "http", "asgi": {"version": "3.0"}, "method": "GET", "path": "/open/x", "raw_path": b"/open/x"}
    async with app.router.lifespan_context(app):
        for each in (scope, {**scope, "headers": []}):
            sent = await answered(app, each, REQUEST)
            assert (sent[0]["status"], b"bad_host" in sent[1]["body"]) == (400, True)


async def test_a_handshake_without_optional_keys_is_answered(app: Starlette) -> None:
    scope = {"type": "websocket", "asgi": {"version": "3.0"}, "path": "/private/x", "raw_path": b"/private/x"}
    async with app.router.lifespan_context(app):
        sent = await answered(app, scope | {"headers": HOST}, {"type": "websocket.connect"})
    assert sent == [{"type": "websocket.close", "code": 1008}]


def test_the_test_client_of_starlette_opens_websockets(app: Starlette, upstream: RecordingUpstream) -> None:
    upstream.on("/sockets/x", echoing())
    with TestClient(app) as client, client.websocket_connect("/sockets/x") as socket:
        socket.send_text("hello")
        assert socket.receive_text() == "hello"
        socket.send_bytes(b"bytes")
        assert socket.receive_bytes() == b"bytes"


def test_the_test_client_sees_why_a_handshake_is_refused(app: Starlette) -> None:
    with TestClient(app) as client, pytest.raises(WebSocketDisconnect), client.websocket_connect("/open/x"):
        pass


# ---- errors of the server and of the gateway

OPEN = {"type": "http", "asgi": {"version": "3.0"}, "method": "GET", "path": "/open/x", "raw_path": b"/open/x"}


async def send_by(app: Any, send: Callable[[dict[str, Any]], Awaitable[None]]) -> None:
    """Call the application with a connection whose disconnect is never reported."""
    waiting = [REQUEST]

    async def receive() -> dict[str, Any]:
        if waiting:
            return waiting.pop(0)
        await asyncio.Event().wait()
        raise AssertionError

    await app(OPEN | {"headers": HOST}, receive, send)


def test_a_write_to_a_connection_that_uvloop_has_closed_is_no_error(app: Starlette) -> None:
    attempts = 0

    async def respond() -> None:
        near, far = socket.socketpair()
        transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=near)
        transport.abort()

        async def send(message: dict[str, Any]) -> None:
            nonlocal attempts
            attempts += 1
            await asyncio.sleep(0)
            transport.write(b"HTTP/1.1 200 OK\r\n\r\n")

        async with app.router.lifespan_context(app):
            await send_by(app, send)
        far.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(respond())
    assert attempts == 1


async def test_another_failure_of_a_send_is_an_error(app: Starlette) -> None:
    async def send(message: dict[str, Any]) -> None:
        raise RuntimeError("unexpected message; the handler is closed")

    async with app.router.lifespan_context(app):
        with pytest.raises(RuntimeError, match="unexpected message"):
            await send_by(app, send)


async def test_a_defect_of_a_builtin_endpoint_is_one_response_and_one_log_entry(
    app: Starlette, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def failing(_: Metrics) -> None:
        raise LookupError("a defect")

    monkeypatch.setattr(Metrics, "page", failing)
    path = "/_gateway/metrics"
    scope = {"type": "http", "method": "GET", "path": path, "raw_path": path.encode(), "client": ("127.0.0.1", 1)}
    async with app.router.lifespan_context(app):
        start, body = await answered(app, scope | {"headers": HOST}, REQUEST)
    assert (start["status"], dict(start["headers"])[b"cache-control"]) == (500, b"no-store")
    assert b"internal_error" in body["body"]
    assert b"a defect" not in body["body"]
    assert [record.message for record in caplog.records if record.exc_info] == ["an own endpoint failed"]


# ---- mounted applications


@pytest.fixture(
    params=[("/gw", ""), ("/a/b", ""), ("/a", "/b"), ("/käse", "")], ids=["one", "two", "nested", "encoded"]
)
def below(request: pytest.FixtureRequest, app: Starlette) -> Iterator[tuple[TestClient, str]]:
    outer, inner = request.param
    with TestClient(mounting(app, outer, inner=inner), raise_server_exceptions=False) as client:
        yield client, outer + inner


def test_mounted_it_decides_on_the_path_below(below: tuple[TestClient, str], upstream: RecordingUpstream) -> None:
    client, prefix = below
    expected = {
        "/open/x?q=1": 200,
        "/private/x": 401,
        "/auth/me": 401,
        "/_gateway/health": 200,
        "/nowhere": 404,
        "/": 404,
        "/open/%2e%2e/private/x": 400,
    }
    assert {path: client.get(f"{prefix}{path}").status_code for path in expected} == expected
    assert [one.target for one in upstream.requests] == [b"/open/x?q=1"]


def test_mounted_it_relays_websockets(below: tuple[TestClient, str], upstream: RecordingUpstream) -> None:
    client, prefix = below
    upstream.on("/sockets/x", echoing())
    with client.websocket_connect(f"{prefix}/sockets/x") as socket:
        socket.send_text("hello")
        assert socket.receive_text() == "hello"


# By name: raw path, decoded path, root_path and status. The upstream gets the path below the root, or no request.
ROOTS: dict[str, tuple[bytes, str, str, int]] = {
    "joined": (b"/gw/open/x", "/gw/open/x", "/gw", 200),
    "not joined, as servers of before": (b"/open/x", "/open/x", "/gw", 200),
    "with a slash at its end": (b"/gw/open/x", "/gw/open/x", "/gw/", 200),
    "with an escape": (b"/%67w/open/x", "/gw/open/x", "/gw", 200),
    "as a slash alone": (b"/open/x", "/open/x", "/", 200),
    "a beginning of a segment": (b"/gwen/open/x", "/gwen/open/x", "/gw", 404),
    "an escaped slash": (b"/a%2Fb/open/x", "/a/b/open/x", "/a/b", 400),
    "another raw path": (b"/open/x", "/gw/open/x", "/gw", 400),
    "an escaped slash behind it": (b"/gw%2Fopen/x", "/gw/open/x", "/gw", 400),
    "an escape twice": (b"/%2567w/open/x", "/%67w/open/x", "/gw", 400),
    "a step up": (b"/gw/../open/x", "/gw/../open/x", "/gw", 400),
    "two slashes": (b"/gw//open/x", "/gw//open/x", "/gw", 400),
}


@pytest.mark.parametrize("case", ROOTS)
async def test_root_path_is_taken_off_the_raw_path(app: Starlette, upstream: RecordingUpstream, case: str) -> None:
    raw, path, root, status = ROOTS[case]
    scope = {"type": "http", "asgi": {"version": "3.0"}, "method": "GET", "headers": HOST, "path": path}
    async with app.router.lifespan_context(app):
        sent = await answered(app, scope | {"raw_path": raw, "root_path": root}, REQUEST)
    assert sent[0]["status"] == status
    assert [one.target for one in upstream.requests] == ([b"/open/x"] if status == 200 else [])


_APPLICATION = "gateway.app:create_app_from_environment"
# By name: the module that must be installed, and the arguments of Python for the root path /api.
SERVERS = {
    "uvicorn": ("uvicorn", ["uvicorn", "--root-path", "/api", "--port", "{port}", "--factory", _APPLICATION]),
    "hypercorn": ("hypercorn", ["hypercorn", "--root-path", "/api", "--bind", "127.0.0.1:{port}", f"{_APPLICATION}()"]),
    "gunicorn": (
        "gunicorn.workers.gasgi",
        ["gunicorn", "-k", "asgi", "--root-path", "/api", "--bind", "127.0.0.1:{port}", f"{_APPLICATION}()"],
    ),
    "granian": (
        "granian",
        ["granian", "--interface", "asgi", "--url-path-prefix", "/api", "--port", "{port}", "--factory", _APPLICATION],
    ),
}


class _Rooted(Gateway):
    server = ""

    @property
    def arguments(self) -> list[str]:
        return ["-m", *(word.format(port=self.address[1]) for word in SERVERS[self.server][1])]


@pytest.mark.parametrize("server", SERVERS)
def test_a_server_with_a_root_path_serves_the_paths_below(
    server: str, tmp_path: Path, upstream: RecordingUpstream
) -> None:
    try:
        installed = importlib.util.find_spec(SERVERS[server][0])
    except ModuleNotFoundError:
        installed = None
    if installed is None:
        pytest.skip(f"{SERVERS[server][0]} is not installed")
    gateway = _Rooted("asgi", small(tmp_path, {"web": upstream.url}, routes=ROUTES), tmp_path)
    gateway.server = server
    prefix = "/api" if server == "granian" else ""  # the others expect a proxy that removes it
    gateway.launch()
    try:
        eventually(lambda: _status(gateway, f"{prefix}/_gateway/ready") == 200, timeout=20, every=0.05)
        assert _status(gateway, f"{prefix}/open/x") == 200
        assert _status(gateway, f"{prefix}/private/x") == 401
        assert [one.target for one in upstream.requests] == [b"/open/x"]
    finally:
        gateway.stop()


def _status(gateway: Gateway, path: str) -> int:
    try:
        return gateway.get(path).status
    except OSError:
        return 0


# ---- without a lifespan


async def test_without_a_lifespan_requests_are_refused_and_the_reason_is_reported_once(
    app: Starlette, capfd: pytest.CaptureFixture[str]
) -> None:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://shop.example") as client:
        for _ in range(3):
            answer = await client.get("/open/x")
            assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
    sent = await answered(app, {"type": "websocket", "path": "/sockets/x", "headers": []})
    assert sent == [{"type": "websocket.close", "code": 1011}]
    assert capfd.readouterr().err.count("run the ASGI server with its lifespan") == 1


def test_on_another_loop_than_asyncio_it_does_not_start(app: Starlette) -> None:
    """Run the coroutine without an asyncio loop, as trio does."""
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "lifespan.startup"}

    async def send(message: Any) -> None:
        sent.append(message)

    run = app({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, receive, send)
    with pytest.raises(StopIteration):
        run.send(None)
    assert [message["type"] for message in sent] == ["lifespan.startup.failed"]
    assert sent[0]["message"] == "the gateway runs on asyncio, not on trio (hypercorn --worker-class asyncio)"


async def test_a_start_that_fails_is_one_message(app: Starlette, tmp_path: Path, upstream: RecordingUpstream) -> None:
    configuration = small(tmp_path, {"web": upstream.url}, storage={"database": f"sqlite:///{tmp_path}/no/x.db"})
    path = tmp_path / "other.yaml"
    path.write_text(yaml.safe_dump(configuration))
    other = create_app(load_configuration(path))
    sent = await answered(other, {"type": "lifespan", "state": {}}, {"type": "lifespan.startup"})
    assert [message["type"] for message in sent] == ["lifespan.startup.failed"]
    assert "storage.database" in sent[0]["message"]
    assert "Traceback" not in sent[0]["message"]
    with pytest.raises(ConfigurationError):
        async with other.router.lifespan_context(other):
            pass
