"""Upstreams that respond before reading the request body, and close: RFC 9112 9.5 requires forwarding the response.

Closing a socket with unread bytes sends a reset after the response. The gateway is writing at that moment, so its write
fails before it has read the response.
"""

import asyncio
import contextlib
import itertools
import random
import shutil
import socket
import ssl
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

import pytest
import uvloop

from bench.processes import Running, free_port, wait_for_port
from bench.processes import start as start_process
from gateway.settings.model import TlsSettings
from tests.proxy.upstreams.harness import ended, running, settings
from tests.support.listening import listening
from tests.support.processes import Engine, Face, Gateway
from tests.support.raw import NoAnswer
from tests.support.small import Start, metric, small
from tests.support.upstreams import Authority
from tests.support.wording import request

REFUSAL = b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 8\r\nConnection: close\r\n\r\ntoo much"
CHUNKED = b"HTTP/1.1 413 Content Too Large\r\nTransfer-Encoding: chunked\r\n\r\n8\r\ntoo much\r\n0\r\n\r\n"
LONG = b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 20000\r\n\r\n" + b"too much" * 2500
UNANNOUNCED = REFUSAL.replace(b"Connection: close\r\n", b"")
INTERIM = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"

# ---- upstreams

Act = Callable[[socket.socket], None]


def closing(answer: bytes, *, taking: int = 0) -> Act:
    """Read `taking` bytes of the body, or all that arrives quickly, respond, and close."""

    def act(connection: socket.socket) -> None:
        left = taking
        connection.settimeout(0.05)
        with contextlib.suppress(TimeoutError):
            while left > 0 and (data := connection.recv(left)):
                left -= len(data)
        connection.sendall(answer)

    return act


def in_parts(connection: socket.socket) -> None:
    """Respond in several segments."""
    for at in range(0, len(REFUSAL), 20):
        connection.sendall(REFUSAL[at : at + 20])
        time.sleep(0.0003)


def lingering(connection: socket.socket) -> None:
    """Respond, close the sending side, and read until the other side closes too (RFC 9112 9.6)."""
    connection.sendall(REFUSAL)
    connection.shutdown(socket.SHUT_WR)
    while connection.recv(65536):
        pass


ACTS: dict[str, Act] = {
    "at once": closing(REFUSAL),
    "after a little": closing(REFUSAL, taking=10_000),
    "after some": closing(REFUSAL, taking=400_000),
    "in chunks": closing(CHUNKED),
    "at length": closing(LONG),
    "without announcing the end": closing(UNANNOUNCED),
    "behind an interim response": closing(INTERIM + UNANNOUNCED, taking=10_000),
    "in parts": in_parts,
    "and lingers": lingering,
}


class Refuser:
    """A server that reads the head of a request, acts, and closes the connection."""

    def __init__(self, act: Act, tls: ssl.SSLContext | None = None) -> None:
        self._act = act
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self._listener.getsockname()[1]}"
        self._delays = random.Random(20261122)
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        connection.settimeout(5)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # a reset drops queued segments
        with contextlib.ExitStack() as stack:
            stack.enter_context(contextlib.suppress(OSError))
            stack.enter_context(connection)
            if self._tls is not None:
                connection = stack.enter_context(self._tls.wrap_socket(connection, server_side=True))
            seen = b""
            while b"\r\n\r\n" not in seen:
                if not (byte := connection.recv(1)):
                    return  # the gateway has closed the connection
                seen += byte
            time.sleep(self._delays.choice((0, 0, 0.0005, 0.002)))
            self._act(connection)


class Starter(Protocol):
    """Starts an upstream with this behaviour, over TLS if it has a context; returns its URL."""

    def __call__(self, act: Act, tls: ssl.SSLContext | None = None) -> str: ...


@pytest.fixture
def refusing() -> Iterator[Starter]:
    with contextlib.ExitStack() as stack:

        def refuser(act: Act, tls: ssl.SSLContext | None = None) -> str:
            started = Refuser(act, tls)
            stack.callback(started.close)
            return started.url

        yield refuser


# ---- uploads

SIZE = 2 << 20
PIECE = b"x" * 32_768

Upload = Callable[[str], Iterator[bytes]]


def with_a_length(path: str) -> Iterator[bytes]:
    yield request(path, method="POST", fields=[f"Content-Length: {SIZE}"])
    yield from itertools.repeat(PIECE, SIZE // len(PIECE))


def in_chunks(path: str) -> Iterator[bytes]:
    yield request(path, method="POST", fields=["Transfer-Encoding: chunked"])
    yield from itertools.repeat(b"%x\r\n%b\r\n" % (len(PIECE), PIECE), SIZE // len(PIECE))
    yield b"0\r\n\r\n"


def in_drops(path: str) -> Iterator[bytes]:
    yield request(path, method="POST", fields=["Content-Length: 4000"])
    for _ in range(40):
        time.sleep(0.0002)
        yield b"x" * 100


def in_one_late_piece(path: str) -> Iterator[bytes]:
    yield request(path, method="POST", fields=["Content-Length: 4000"])
    time.sleep(0.0005)
    yield b"x" * 4000


UPLOADS = (with_a_length, in_chunks, in_drops, in_one_late_piece)
Outcome = tuple[int, str | None, bool] | str


def uploaded(gateway: Gateway, pieces: Iterator[bytes]) -> Outcome:
    """The status, the gateway's own error code, and whether the response is complete; or the end of the connection
    instead."""
    with gateway.caller(timeout=10) as caller:
        caller.send_until_refused(pieces)
        try:
            answer = caller.receive("POST")
        except NoAnswer as none:
            return none.ending
        return answer.status, answer.code, answer.whole


def outcomes(gateway: Gateway, path: str, count: int, uploads: Sequence[Upload] = UPLOADS) -> "Counter[Outcome]":
    """The outcomes of this many uploads of every kind, a few of them concurrent."""
    with ThreadPoolExecutor(4) as pool:
        return Counter(pool.map(lambda number: uploaded(gateway, uploads[number % len(uploads)](path)), range(count)))


# ---- plain sockets


@pytest.mark.parametrize("engine", ["native", "httpx"])
@pytest.mark.parametrize("face", ["serve", "asgi"])
def test_an_answer_that_comes_before_the_upload_has_ended_is_passed_on(
    start: Start, refusing: Starter, face: Face, engine: Engine
) -> None:
    eject = {"failures": 1, "for": "60s"}
    upstreams = {
        f"u{number}": {"targets": [refusing(act)], "engine": engine, "eject": eject}
        for number, act in enumerate(ACTS.values())
    }
    gateway = start(upstreams, face)
    found = {name: outcomes(gateway, f"/u{number}/x", 8) for number, name in enumerate(ACTS)}
    assert {name: set(each) for name, each in found.items()} == {name: {(413, None, True)} for name in ACTS}, found
    assert metric(gateway, "gateway_upstream_failures_total") == 0


@pytest.mark.parametrize("face", ["serve", "asgi"])
def test_an_answer_over_tls_that_comes_before_the_upload_has_ended_is_passed_on(
    start: Start, refusing: Starter, tmp_path: Path, face: Face
) -> None:
    authority = Authority(tmp_path)
    tls = authority.context("127.0.0.1")
    upstreams = {
        f"u{number}": {
            "targets": [refusing(act, tls)],
            "tls": {"ca": str(authority.file)},
            "eject": {"failures": 1, "for": "60s"},
        }
        for number, act in enumerate(ACTS.values())
    }
    gateway = start(upstreams, face)
    found = {name: outcomes(gateway, f"/u{number}/x", 8) for number, name in enumerate(ACTS)}
    assert {name: set(each) for name, each in found.items()} == {name: {(413, None, True)} for name in ACTS}, found
    assert metric(gateway, "gateway_upstream_failures_total") == 0


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
@pytest.mark.parametrize(
    ("answer", "status", "content"), [(REFUSAL, 413, b"too much"), (REFUSAL[:-1], 413, b"too muc"), (b"", 502, b"")]
)
def test_a_failed_write_over_tls_keeps_the_received_bytes(
    refusing: Starter,
    tmp_path: Path,
    run: Callable[[Coroutine[None, None, None]], None],
    answer: bytes,
    status: int,
    content: bytes,
) -> None:
    authority = Authority(tmp_path)
    url = refusing(closing(answer), authority.context("127.0.0.1"))

    async def refused() -> None:
        async with running(settings(url, tls=TlsSettings(ca=str(authority.file)), eject=None)) as harness:
            for number in range(10):
                outcome, exchange = harness.begin("POST", length=SIZE)
                sent = 0
                while sent < SIZE and not outcome.done.done():
                    if not outcome.upload_paused:
                        exchange.write(PIECE)
                        sent += len(PIECE)
                    await asyncio.sleep(0.0002 * (number % 2))
                await ended(outcome)
                assert (outcome.status, outcome.content) == (status, content)

    run(refused())


@pytest.mark.parametrize("answer", [b"", REFUSAL[:30], REFUSAL[:-9]])
async def test_half_a_head_is_no_answer(refusing: Starter, answer: bytes) -> None:
    async with running(settings(refusing(closing(answer)))) as harness:
        for _ in range(3):
            assert (await harness.ask("POST", body=PIECE * 10)).code == "upstream_unreachable"


async def test_half_a_body_is_an_aborted_answer(refusing: Starter) -> None:
    async with running(settings(refusing(closing(REFUSAL[:-1])))) as harness:
        outcome = await harness.ask("POST", body=PIECE * 10)
        assert (outcome.status, outcome.content) == (413, b"too muc")
        assert outcome.aborted is not None


async def test_the_rest_of_a_refused_body_is_not_sent_and_not_held_back() -> None:
    taken, release, over = 0, asyncio.Event(), asyncio.Event()

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal taken
        with contextlib.closing(writer):
            await reader.readuntil(b"\r\n\r\n")
            await asyncio.sleep(0.1)  # the upload stops, because the server does not read it
            writer.write(REFUSAL[:-1])
            await release.wait()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.2):
                    while data := await reader.read(65536):
                        taken += len(data)
            writer.write(REFUSAL[-1:])
            await over.wait()  # to close with unread data would reset the connection

    async with listening(refuse) as port, running(settings(f"http://127.0.0.1:{port}")) as harness:
        outcome, exchange = harness.begin("POST", length=64 << 20)
        sent = 0
        while not outcome.status:
            if not outcome.upload_paused:
                exchange.write(PIECE)
                sent += len(PIECE)
            await asyncio.sleep(0.001 if outcome.upload_paused else 0)
        assert not outcome.upload_paused
        for _ in range(1000):
            exchange.write(PIECE)
        assert not outcome.upload_paused
        release.set()
        assert (await ended(outcome)).content == b"too much"
        over.set()
    assert taken <= sent


# ---- real servers

WSGI = """
def application(environ, start_response):
    start_response("413 Content Too Large", [("Content-Length", "8")])
    return [b"too much"]
"""
ASGI = """
async def application(scope, receive, send):
    await send({"type": "http.response.start", "status": 413, "headers": [(b"content-length", b"8")]})
    await send({"type": "http.response.body", "body": b"too much"})
"""
NODE = """
require("http").createServer((request, response) => {
  response.writeHead(413, {"Content-Length": 8, "Connection": "close"});
  response.end("too much");
}).listen(Number(process.argv[2]), "127.0.0.1");
"""
JAVA = """
import com.sun.net.httpserver.HttpServer;
import java.net.InetSocketAddress;

public class Refuser {
  public static void main(String[] arguments) throws Exception {
    HttpServer server = HttpServer.create(new InetSocketAddress("127.0.0.1", Integer.parseInt(arguments[0])), 0);
    server.setExecutor(java.util.concurrent.Executors.newCachedThreadPool());
    server.createContext("/", exchange -> {
      exchange.sendResponseHeaders(413, 8);
      exchange.getResponseBody().write("too much".getBytes());
      exchange.close();
    });
    server.start();
  }
}
"""
PYTHON = [sys.executable, "-m"]
TLS = ["--certfile", "PEM", "--keyfile", "PEM"]
# The required module or program of a server, its source, and its command. PORT stands for the port, PEM for a file with
# a key and its certificate, which makes the server speak TLS.
SERVERS: dict[str, tuple[str, str, list[str]]] = {
    "gunicorn": ("gunicorn", WSGI, [*PYTHON, "gunicorn", "-b", "127.0.0.1:PORT", "application"]),
    "gunicorn-tls": ("gunicorn", WSGI, [*PYTHON, "gunicorn", *TLS, "-b", "127.0.0.1:PORT", "application"]),
    "waitress": (
        "waitress",
        WSGI,
        [
            *PYTHON,
            "waitress",
            "--host=127.0.0.1",
            "--port=PORT",
            "--max-request-body-size=1000",
            "application:application",
        ],
    ),
    "hypercorn": ("hypercorn", ASGI, [*PYTHON, "hypercorn", "-b", "127.0.0.1:PORT", "application:application"]),
    "hypercorn-tls": (
        "hypercorn",
        ASGI,
        [*PYTHON, "hypercorn", *TLS, "-b", "127.0.0.1:PORT", "application:application"],
    ),
    "uvicorn": ("uvicorn", ASGI, [*PYTHON, "uvicorn", "--port", "PORT", "application:application"]),
    "node": ("node", NODE, ["node", "Refuser.js", "PORT"]),
    # The fast compiler alone, because the program runs for seconds.
    "java": ("java", JAVA, ["java", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "Refuser.java", "PORT"]),
}
FILES = {WSGI: "application.py", ASGI: "application.py", NODE: "Refuser.js", JAVA: "Refuser.java"}


def missing(name: str) -> bool:
    needs, _, _ = SERVERS[name]
    return find_spec(needs) is None and shutil.which(needs) is None


@pytest.fixture(scope="module")
def before_real_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway with an upstream for each installed server."""
    folder = tmp_path_factory.mktemp("refusers")
    authority = Authority(folder)
    pem = authority.server_file("127.0.0.1")
    with contextlib.ExitStack() as stack:
        started: dict[str, tuple[Running, int]] = {}
        for name, (_, source, command) in SERVERS.items():
            if not missing(name):
                own, port = folder / name, free_port()
                own.mkdir()
                (own / FILES[source]).write_text(source)
                words = [word.replace("PORT", str(port)).replace("PEM", str(pem)) for word in command]
                process = start_process(
                    words, cpus=None, environment={"PYTHONPATH": str(own)}, directory=own, name=name
                )
                stack.callback(process.stop)
                started[name] = process, port
        for process, port in started.values():
            wait_for_port(process, port)
        upstreams = {
            name: {
                "targets": [f"{'https' if 'PEM' in SERVERS[name][2] else 'http'}://127.0.0.1:{port}"],
                "tls": {"ca": str(authority.file)},
                "eject": {"failures": 1, "for": "60s"},
            }
            for name, (_, port) in started.items()
        }
        gateway = Gateway("serve", small(folder, upstreams), folder)
        stack.callback(gateway.kill)
        yield gateway.start()


@pytest.mark.parametrize("name", SERVERS)
def test_the_refusal_of_a_real_server_is_passed_on(before_real_servers: Gateway, name: str) -> None:
    if missing(name):
        pytest.skip(f"{SERVERS[name][0]} is not installed")
    found = outcomes(before_real_servers, f"/{name}/x", 9, [with_a_length, in_chunks, in_drops])
    assert set(found) == {(413, None, True)}, found
    assert metric(before_real_servers, "gateway_upstream_failures_total", upstream=name) == 0
