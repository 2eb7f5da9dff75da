"""Programs that embed the gateway: their middleware and tracing see each response, and complete no partial one."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.testclient import TestClient
from starlette.types import Message, Receive, Scope, Send

from gateway.app import create_app
from gateway.policy.loader import load_configuration
from tests.server.asgi.servers import SERVERS, Marking, ServedApplication, installed, mounting, unchanged
from tests.support.processes import write_configuration
from tests.support.recording import Exchange, RecordingUpstream
from tests.support.small import small
from tests.support.wording import request

Add = Callable[[Starlette, pytest.MonkeyPatch], None]


def _application(folder: Path, upstreams: dict[str, Any]) -> Starlette:
    configuration = small(folder, upstreams, storage={"database": "sqlite://"})
    return create_app(load_configuration(write_configuration(folder, configuration)))


def _add(app: Starlette, patch: pytest.MonkeyPatch) -> None:
    app.add_middleware(Marking)


def _replace_the_build(app: Starlette, patch: pytest.MonkeyPatch) -> None:
    """As OpenTelemetry does with FastAPI."""
    build = app.build_middleware_stack
    patch.setattr(app, "build_middleware_stack", lambda: Marking(build()))


def _replace_the_stack(app: Starlette, patch: pytest.MonkeyPatch) -> None:
    app.middleware_stack = Marking(app.build_middleware_stack())


def _replace_the_call(app: Starlette, patch: pytest.MonkeyPatch) -> None:
    """As Sentry does."""
    call = Starlette.__call__

    async def marked(self: Starlette, scope: Scope, receive: Receive, send: Send) -> None:
        async def inner(scope: Scope, receive: Receive, send: Send) -> None:
            await call(self, scope, receive, send)

        await (Marking(inner) if self is app else inner)(scope, receive, send)

    patch.setattr(Starlette, "__call__", marked)


ADDITIONS: dict[str, Add] = {
    "a middleware": _add,
    "another way to build the stack": _replace_the_build,
    "another stack": _replace_the_stack,
    "another call": _replace_the_call,
}


@pytest.mark.parametrize("is_mounted", [False, True], ids=["alone", "mounted"])
@pytest.mark.parametrize("add", ADDITIONS.values(), ids=ADDITIONS)
def test_an_addition_to_the_application_sees_each_response(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, add: Add, is_mounted: bool
) -> None:
    app = _application(tmp_path, {})
    add(app, monkeypatch)
    with TestClient(mounting(app) if is_mounted else app) as client:
        for path in ("/nowhere", "/_gateway/health"):
            assert client.get(path).headers.get_list("x-marked") == ["1"]


def test_a_send_with_the_attributes_of_the_servers_sees_each_response(
    tmp_path: Path, upstream: RecordingUpstream
) -> None:
    server = "uvicorn, in a middleware"
    if not installed(server):
        pytest.skip(f"{SERVERS[server][0]} is not installed")
    served = ServedApplication(server, small(tmp_path, {"web": upstream.url}), tmp_path)
    served.start()
    try:
        with served.caller() as caller:
            for _ in range(2):
                got = caller.send(request("/web/x")).receive()
                assert (got.body, got.value("x-marked")) == (b"upstream", b"1")
    finally:
        served.stop()


HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
PARTIAL = {"a chunk": HEAD + b"4\r\nbody\r\n", "a part of a chunk": HEAD + b"5\r\nbody", "a head": HEAD}


@pytest.mark.parametrize("partial", PARTIAL.values(), ids=PARTIAL)
async def test_a_middleware_does_not_complete_the_response_of_an_upstream_that_failed(
    tmp_path: Path, upstream: RecordingUpstream, partial: bytes
) -> None:
    async def broken(exchange: Exchange) -> None:
        await exchange.send(partial)
        exchange.hang_up()

    upstream.on("/web/x", broken)
    app = _application(tmp_path, {"web": upstream.url})
    app.add_middleware(BaseHTTPMiddleware, dispatch=unchanged)
    sent: list[Message] = []

    async def receive() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "asgi": {"version": "3.0"}, "method": "GET", "headers": [(b"host", b"shop.example")]}
    async with app.router.lifespan_context(app):
        with pytest.raises(Exception):  # noqa: B017  that of the gateway, or the one of Starlette
            await app(scope | {"path": "/web/x", "raw_path": b"/web/x"}, receive, send)
    assert sent[0]["status"] == 200
    assert [message["type"] for message in sent[1:] if not message.get("more_body")] == []
