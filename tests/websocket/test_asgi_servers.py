"""The ASGI application under servers other than uvicorn: variations that the specification allows.

The messages are those of the specification; the upstream is real.
"""

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
import yaml
from starlette.applications import Starlette

import gateway.server.asgi.upstream_websocket
import gateway.server.asgi.websocket
from tests.support.asgi_server import Message, Server, serving
from tests.support.builds import patches_a_compiled_constant
from tests.support.gateways import Gateways
from tests.support.processes import PASSWORD
from tests.support.recording import RecordingUpstream
from tests.support.scripts import HeldConnection, raw, response
from tests.support.waiting import eventually, until
from tests.support.websockets import BINARY, FarEnd, Frame, bearing, close, echoing, text

PATH = "/public-sockets/asgi"


# The application runs in the event loop of all tests of this module.
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def configuration(gateways: Gateways, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("application")
    shutil.copy(gateways.seed(), folder / "gateway.db")
    file = folder / "gateway.yaml"
    file.write_text(yaml.safe_dump(gateways.configuration(folder)))
    return file


@pytest.fixture
def other_configuration(gateways: Gateways, tmp_path: Path) -> Path:
    """The same configuration with a database of its own."""
    file = tmp_path / "gateway.yaml"
    file.write_text(yaml.safe_dump(gateways.configuration(tmp_path)))
    return file


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def app(configuration: Path) -> AsyncIterator[Starlette]:
    async with serving(configuration) as app:
        yield app


@pytest_asyncio.fixture(loop_scope="module")
async def client(app: Starlette) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the application, signed in."""
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway.test") as client:
        answer = await client.post("/auth/login", json={"email": "user@example.com", "password": PASSWORD})
        client.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"
        yield client


async def in_thread(look: Callable[[], Any]) -> Any:
    """The result of a blocking call about the upstream."""
    return await asyncio.to_thread(look)


async def test_a_server_without_the_extension_closes_instead(app: Starlette, upstream: RecordingUpstream) -> None:
    """The client gets the server's own 403."""
    upstream.on(PATH, raw(response(404, [], b"nothing here")))
    for path in ("/sockets/x", "/nowhere", PATH):
        absent: list[dict[str, Any] | None] = [{}, None]
        for extensions in absent:
            server = Server(app, path, extensions=extensions)
            await server.over()
            assert server.sent == [{"type": "websocket.close", "code": 1008}], path


async def test_a_server_need_not_pass_on_the_handshakes_own_fields(app: Starlette, upstream: RecordingUpstream) -> None:
    """HTTP/2 has none (RFC 8441); the upstream still gets a handshake of the gateway."""
    upstream.on(PATH, echoing("Sec-WebSocket-Protocol: chat", "Set-Cookie: a=1"))
    offered = [(b"host", b"gateway.test"), (b"sec-websocket-protocol", b"chat")]
    server = Server(app, PATH, http_version="2", scheme="wss", headers=offered)
    accepted = await server.expect("websocket.accept")
    assert accepted["subprotocol"] == "chat"
    assert accepted["headers"] == [(b"set-cookie", b"a=1")]
    received = upstream.only
    assert received.values("sec-websocket-version") == [b"13"]
    assert len(received.values("sec-websocket-key")[0]) == 24
    assert received.values("x-forwarded-proto") == [b"https"]
    assert received.values("via") == [b"2 gateway"]
    server.say(type="websocket.receive", text="hello", bytes=None)
    assert (await server.expect("websocket.send"))["text"] == "hello"
    server.say(type="websocket.disconnect")
    await server.over()


async def test_messages_can_omit_the_unused_member(app: Starlette, upstream: RecordingUpstream) -> None:
    far = FarEnd()
    upstream.on(PATH, far)
    server = Server(app, PATH)
    await server.expect("websocket.accept")
    server.say(type="websocket.receive", bytes=b"data")
    server.say(type="websocket.receive", text=None, bytes=b"more")
    server.say(type="websocket.receive", text="")
    server.say(type="websocket.receive")
    server.say(type="websocket.disconnect", code=1001, reason=None)
    frames = [await in_thread(far.frame) for _ in range(5)]
    assert [(frame.opcode, frame.payload) for frame in frames[:4]] == [
        (2, b"data"),
        (2, b"more"),
        (1, b""),
        (2, b""),
    ]
    assert frames[4].closing == (1001, "")
    await server.over()


@pytest.mark.parametrize(
    ("received", "heard"),
    [
        ({"code": 1000}, (1000, "")),
        ({"code": 4001, "reason": "täglich"}, (4001, "täglich")),
        ({"code": 4001, "reason": "r" * 200}, (4001, "r" * 123)),
        ({"code": 1014}, (1014, "")),
        ({"code": 1005, "reason": "nothing was said"}, (None, "")),
        ({"code": 1006}, (None, "")),
        ({"code": 1015}, (None, "")),
        ({"code": 1004}, (None, "")),
        ({"code": 999}, (None, "")),
        ({"code": 5000}, (None, "")),
        ({"code": 0}, (None, "")),
        ({}, (None, "")),
    ],
)
async def test_only_valid_close_codes_are_forwarded(
    app: Starlette, upstream: RecordingUpstream, received: Message, heard: tuple[int | None, str]
) -> None:
    far = FarEnd()
    upstream.on(PATH, far)
    server = Server(app, PATH)
    await server.expect("websocket.accept")
    server.say(type="websocket.disconnect", **received)
    assert (await in_thread(far.frame)).closing == heard
    await server.over()


async def test_a_client_that_disconnects_before_any_response_cancels_it(
    app: Starlette, upstream: RecordingUpstream
) -> None:
    """At any moment: before the upstream has answered, and within a response that is not a switch."""
    held = HeldConnection(), HeldConnection(before=response(403, ["Content-Length: 100"], None) + b"half of it")
    for script in held:
        upstream.requests.clear()
        upstream.on(PATH, script)
        server = Server(app, PATH)
        await in_thread(script.reached)
        await asyncio.sleep(0.05)
        server.say(type="websocket.disconnect", code=1006)
        await server.over()
        assert server.sent == []
        assert await in_thread(lambda: eventually(lambda: upstream.only.link.ended)) in ("fin", "reset")


async def test_a_server_that_fails_to_send_has_lost_its_caller(app: Starlette, upstream: RecordingUpstream) -> None:
    """The specification requires OSError."""
    far = FarEnd()
    upstream.on(PATH, far)
    server = Server(app, PATH)
    await server.expect("websocket.accept")

    async def lost(message: Message) -> None:
        raise BrokenPipeError

    server.on_send = lost
    await in_thread(lambda: far.say(text("into the void")))
    await server.over()
    assert (await in_thread(far.frame)).closing == (None, "")


async def test_a_server_that_cancels_releases_the_upstream(app: Starlette, upstream: RecordingUpstream) -> None:
    far = FarEnd()
    upstream.on(PATH, far)
    server = Server(app, PATH)
    await server.expect("websocket.accept")
    server.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await server.over()
    assert (await in_thread(far.frame)).closing == (None, "")
    assert await in_thread(far.gone) in ("fin", "reset")


async def test_an_unknown_message_is_an_error_and_releases_the_upstream(
    app: Starlette, upstream: RecordingUpstream
) -> None:
    far = FarEnd()
    upstream.on(PATH, far)
    server = Server(app, PATH)
    await server.expect("websocket.accept")
    server.say(type="websocket.receive", text="\udc80 is half a character")
    with pytest.raises(UnicodeEncodeError):
        await server.over()
    assert await in_thread(far.gone) in ("fin", "reset")


async def test_messages_after_the_close_of_the_upstream_are_dropped(
    app: Starlette, upstream: RecordingUpstream
) -> None:
    far = FarEnd()
    upstream.on(PATH, far)
    server = Server(app, PATH)
    await server.expect("websocket.accept")
    blocked = asyncio.Event()

    async def wait(message: Message) -> None:
        await blocked.wait()

    server.on_send = wait
    await in_thread(lambda: far.say(close(4000, "enough")))
    assert (await in_thread(far.frame)).closing == (4000, "enough")
    server.say(type="websocket.receive", text="too late")
    await asyncio.sleep(0.05)
    blocked.set()
    assert await server.expect("websocket.close") == {"type": "websocket.close", "code": 4000, "reason": "enough"}
    await server.over()
    assert far.heard() == []


@patches_a_compiled_constant
async def test_an_upstream_that_takes_nothing_for_long_is_given_up(
    app: Starlette, upstream: RecordingUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway.server.asgi.upstream_websocket, "STALL", 0.3)
    far = FarEnd(reads=False)
    upstream.on(PATH, far)
    server = Server(app, PATH)
    await server.expect("websocket.accept")
    for _ in range(64):
        server.say(type="websocket.receive", bytes=b"x" * 1024 * 1024)
    await server.over()
    assert not any(message["type"] == "websocket.close" for message in server.sent)
    far.read()


@patches_a_compiled_constant
async def test_a_revoked_client_that_reads_nothing_is_left_to_the_server(
    app: Starlette, client: httpx.AsyncClient, upstream: RecordingUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway.server.asgi.websocket, "_LAST_CALL", 0.3)
    far = FarEnd()
    upstream.on("/sockets/x", far)
    authorization = client.headers["Authorization"].encode()
    server = Server(app, "/sockets/x", headers=[(b"host", b"h"), (b"authorization", authorization)])
    await server.expect("websocket.accept")

    sending = asyncio.Event()

    async def never(message: Message) -> None:
        sending.set()
        await asyncio.Event().wait()

    server.on_send = never
    await in_thread(lambda: far.say(text("not taken")))
    await sending.wait()
    assert (await client.post("/auth/logout")).status_code == 204
    assert (await in_thread(far.frame)).closing == (1008, "token_revoked")
    await server.over()


async def test_a_browser_is_answered_with_its_own_word(
    app: Starlette, client: httpx.AsyncClient, upstream: RecordingUpstream
) -> None:
    upstream.on("/sockets/x", echoing())
    name, _, value = bearing(client.headers["Authorization"].removeprefix("Bearer "), "chat").partition(": ")
    server = Server(app, "/sockets/x", headers=[(b"host", b"h"), (name.lower().encode(), value.encode())])
    assert (await server.expect("websocket.accept"))["subprotocol"] == "bearer"
    assert upstream.only.values("sec-websocket-protocol") == [b"chat"]
    server.say(type="websocket.disconnect", code=1000)
    await server.over()


async def test_a_large_message_waits_for_its_turn(app: Starlette, upstream: RecordingUpstream) -> None:
    far = FarEnd()
    upstream.on(PATH, far)
    server = Server(app, PATH)
    await server.expect("websocket.accept")
    gate = asyncio.Event()

    async def slowly(message: Message) -> None:
        await gate.wait()

    server.on_send = slowly
    await in_thread(lambda: far.say(*(Frame(BINARY, b"%d" % number * 300_000) for number in range(6))))
    await asyncio.sleep(0.2)
    gate.set()
    await until(lambda: sum(message["type"] == "websocket.send" for message in server.sent) >= 6)
    got = [message["bytes"] for message in server.sent if message["type"] == "websocket.send"]
    assert got == [b"%d" % number * 300_000 for number in range(6)]
    server.say(type="websocket.disconnect", code=1000)
    await server.over()


@pytest.mark.parametrize(
    ("reads", "client_leaves"),
    [(True, True), (True, False), (False, False)],
    ids=["the client has left", "the client stays", "the upstream reads nothing"],
)
async def test_no_connection_to_an_upstream_outlasts_the_application(
    other_configuration: Path, upstream: RecordingUpstream, reads: bool, client_leaves: bool
) -> None:
    """The upstream does not answer the Close. The event loop can end with the lifespan, so no timer can close later."""
    far = FarEnd(reads=reads)
    upstream.on(PATH, far)
    async with serving(other_configuration) as app:
        server = Server(app, PATH)
        await server.expect("websocket.accept")
        if client_leaves:
            server.say(type="websocket.disconnect", code=1000)
            await server.over()
        else:
            server.say(type="websocket.receive", bytes=b"x" * 16 * 1024 * 1024)
            await asyncio.sleep(0)
    far.read()
    assert far.gone() in ("fin", "reset")  # in the thread of the event loop, which runs nothing else until then
    server.task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await server.over()
