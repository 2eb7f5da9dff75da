"""Application servers on Unix sockets: requests, uploads, WebSockets and health checks, with both engines."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from tests.frameworks.applications import PYTHON, running
from tests.support.gateways import unhandled
from tests.support.processes import FACES, Face, Gateway
from tests.support.small import Start, metric, small, start
from tests.support.waiting import eventually
from tests.support.websockets import Socket, close, text
from tests.support.wording import request

__all__ = ["start"]

APPLICATION = """
import json

async def asgi(scope, receive, send):
    if scope["type"] == "lifespan":
        raise NotImplementedError
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": message["text"].upper()})
        return
    body = b""
    while (message := await receive()).get("more_body") or message.get("body"):
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    host = dict(scope["headers"])[b"host"].decode()
    body = json.dumps({"path": scope["path"], "host": host, "received": len(body)}).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})

def wsgi(environ, start_response):
    received = len(environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0)))
    body = json.dumps({"path": environ["PATH_INFO"], "host": environ["HTTP_HOST"], "received": received}).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""
SERVERS = {
    "uvicorn": ["-m", "uvicorn", "--uds", "uvicorn.sock", "--no-access-log", "app:asgi"],
    "gunicorn": ["-m", "gunicorn", "--bind", "unix:gunicorn.sock", "app:wsgi"],
    "waitress": ["-m", "waitress", "--unix-socket", "waitress.sock", "app:wsgi"],
    "hypercorn": ["-m", "hypercorn", "--bind", "unix:hypercorn.sock", "app:asgi"],
    "daphne": ["-m", "daphne", "-u", "daphne.sock", "app:asgi"],
}
SOCKETS = ("uvicorn", "hypercorn", "daphne")


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of the sockets."""
    folder = tmp_path_factory.mktemp("s")
    (folder / "app.py").write_text(APPLICATION)
    with ExitStack() as stack:
        for command in SERVERS.values():
            stack.enter_context(running(folder, [PYTHON, *command]))
        for name in SERVERS:
            eventually(partial(accepts, folder / f"{name}.sock"), timeout=30)
        yield folder


def accepts(path: Path) -> bool:
    """Whether a server accepts connections at this socket."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


@pytest.fixture(scope="module", params=FACES)
def gateway(
    request: pytest.FixtureRequest, servers: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    """A gateway with two upstreams for each server, one for each engine."""
    folder, face = tmp_path_factory.mktemp("gateway"), request.param
    health = {"path": "/healthz", "interval": "100ms", "rise": 1}
    upstreams = {
        f"{name}-{engine}": {"targets": [f"unix:{servers / name}.sock:/base"], "engine": engine, "health": health}
        for name in SERVERS
        for engine in ("native", "httpx")
    }
    configuration = small(folder, upstreams)
    for route in configuration["routes"]:
        route |= {"strip_prefix": route["path"].removesuffix("/**"), "websocket": True}
    gateway = Gateway(face, configuration, folder).start()
    yield gateway
    gateway.kill()
    assert not unhandled(gateway), unhandled(gateway)[0]


@pytest.mark.parametrize("engine", ["native", "httpx"])
@pytest.mark.parametrize("server", SERVERS)
def test_requests_reach_a_server_on_a_unix_socket(gateway: Gateway, server: str, engine: str) -> None:
    with gateway.caller() as caller:
        for body in (None, b"x" * 100_000, None):
            method = "GET" if body is None else "POST"
            caller.send(request(f"/{server}-{engine}/items", method=method, body=body))
            answer = caller.receive()
            expected = {"path": "/base/items", "host": "gateway.test", "received": len(body or b"")}
            assert answer.json() == expected


@pytest.mark.parametrize("engine", ["native", "httpx"])
@pytest.mark.parametrize("server", SOCKETS)
def test_a_websocket_reaches_a_server_on_a_unix_socket(gateway: Gateway, server: str, engine: str) -> None:
    with Socket(gateway, f"/{server}-{engine}/chat") as client:
        client.say(text("hello"))
        assert client.message() == b"HELLO"
        client.say(close(1000))
        assert client.closed()[0] == 1000


@pytest.mark.parametrize("engine", ["native", "httpx"])
def test_health_checks_reach_a_server_on_a_unix_socket(gateway: Gateway, engine: str) -> None:
    for server in SERVERS:
        assert metric(gateway, "gateway_upstream_target_up", upstream=f"{server}-{engine}") == 1
    page = gateway.get("/_gateway/metrics").body
    assert b'target="unix:' in page


@pytest.mark.parametrize("face", FACES)
def test_a_missing_socket_is_a_502_and_a_later_one_is_used(start: Start, face: Face, tmp_path: Path) -> None:
    path = tmp_path / "late.sock"
    health = {"path": "/healthz", "interval": "50ms", "fall": 1, "rise": 1}
    upstreams = {"late": f"unix:{path}", "checked": {"targets": [f"unix:{path}"], "health": health}}
    gateway = start(upstreams, face)
    assert gateway.get("/late/x").refused() == (502, "upstream_unreachable")
    eventually(lambda: gateway.get("/checked/x").refused() == (503, "upstream_unavailable"))
    assert "late.sock" in gateway.log()
    assert b"late.sock" not in gateway.get("/late/x").body
    (tmp_path / "app.py").write_text(APPLICATION)
    with running(tmp_path, [PYTHON, "-m", "uvicorn", "--uds", str(path), "app:asgi"]):
        eventually(lambda: gateway.get("/late/x").status == 200, timeout=15)
        eventually(lambda: gateway.get("/checked/x").status == 200)


def test_a_connection_waits_while_the_queue_of_the_socket_is_full(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "full.sock"
    gateway = start({"full": {"targets": [f"unix:{path}"], "connect_timeout": "5s"}})
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(str(path))
        listener.listen(0)
        filler = stack.enter_context(socket.socket(socket.AF_UNIX))
        filler.connect(str(path))  # a queue of 0 holds one connection
        caller = stack.enter_context(gateway.caller())
        caller.send(request("/full/x"))
        assert caller.is_open(after=0.2)
        listener.accept()[0].close()
        accepted = stack.enter_context(listener.accept()[0])
        accepted.recv(4096)
        accepted.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        assert caller.receive().body == b"ok"
