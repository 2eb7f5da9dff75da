"""How the gateway itself ends a WebSocket: with a Close between two frames, never inside of one; when it stops, too."""

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from tests.support.configurations import changed
from tests.support.gateways import Town, unhandled
from tests.support.processes import Account, Face, Gateway
from tests.support.raw import MiB, _Ended
from tests.support.recording import Exchange, RecordingUpstream
from tests.support.waiting import eventually, within
from tests.support.websockets import (
    BINARY,
    CLOSE,
    Decoder,
    FarEnd,
    Frame,
    Socket,
    close,
    echoing,
    encode,
    handshake,
    switching,
    text,
)

PATH = "/sockets/goodbye"
REVOKED = (1008, "token_revoked")


@pytest.fixture
def account(gateway: Gateway) -> Account:
    return gateway.newcomer()


def log_out(gateway: Gateway, account: Account) -> None:
    assert gateway.post("/auth/logout", b"", account.line).status == 204


def test_both_sides_are_told_why(gateway: Gateway, upstream: RecordingUpstream, account: Account) -> None:
    far = FarEnd()
    upstream.on(PATH, far)
    with Socket(gateway, PATH, account.line) as socket:
        log_out(gateway, account)
        with within(1.0):
            assert socket.closed() == REVOKED
            heard = far.frame()
        assert heard.closing == REVOKED
        assert heard.masked
        socket.say(close(1008))
        with within(1.0):
            assert socket.ended() == ("fin", b"")
        far.say(close(1008))
        assert far.gone(within=1.0) in ("fin", "reset")


def test_a_frame_of_the_upstream_is_ended_before_the_close(
    gateway: Gateway, upstream: RecordingUpstream, account: Account
) -> None:
    far = FarEnd()
    upstream.on(PATH, far)
    frame = encode(Frame(BINARY, os.urandom(MiB)))
    with Socket(gateway, PATH, account.line) as socket:
        far.send(frame[: MiB // 2])
        _read_until(socket, MiB // 2 - 4096 if gateway.face == "serve" else 0)
        log_out(gateway, account)
        assert far.frame().closing == REVOKED  # this direction was free
        far.send(frame[MiB // 2 :] + encode(text("and one more")))
        frames = _frames_to_the_end(socket)
        if gateway.face == "serve":
            assert encode(frames[0]) == frame
            assert [each.closing for each in frames[1:]] == [REVOKED]
        else:  # nothing of the message was on its way to the caller
            assert [each.closing for each in frames] == [REVOKED]


def test_a_frame_of_the_caller_is_ended_before_the_close(
    gateway: Gateway, upstream: RecordingUpstream, account: Account
) -> None:
    far = FarEnd()
    upstream.on(PATH, far)
    frame = encode(Frame(BINARY, b"z" * MiB), masked=True)
    with Socket(gateway, PATH, account.line) as socket:
        socket.send(frame[: MiB // 2])
        if gateway.face == "serve":
            eventually(lambda: far.taken == MiB // 2)
        log_out(gateway, account)
        assert socket.closed() == REVOKED
        socket.send(frame[MiB // 2 :] + encode(text("and one more"), masked=True))
        if gateway.face == "serve":
            assert far.frame().payload == b"z" * MiB
        assert far.frame().closing == REVOKED
        assert far.gone(within=2.0) in ("fin", "reset")
        assert far.heard() == []


def test_a_frame_that_never_ends_is_not_waited_for_and_not_broken_into(
    gateway: Gateway, upstream: RecordingUpstream, account: Account
) -> None:
    far = FarEnd()
    upstream.on(PATH, far)
    half = encode(Frame(BINARY, b"h" * MiB))[: MiB // 2]
    with Socket(gateway, PATH, account.line) as socket:
        far.send(half)
        got = _read_until(socket, len(half) if gateway.face == "serve" else 0)
        started = time.monotonic()
        log_out(gateway, account)
        if gateway.face == "serve":
            _, rest = socket.ended(within=2.0)
            assert got + rest == half
            assert time.monotonic() - started < 1.5
        else:
            assert socket.closed() == REVOKED


@pytest.mark.parametrize("_", range(4))
def test_amid_a_flood_the_close_stands_between_two_frames(
    gateway: Gateway, upstream: RecordingUpstream, account: Account, _: int
) -> None:
    upstream.on(PATH, _flooding)
    with Socket(gateway, PATH, account.line) as socket:
        socket.frame()
        log_out(gateway, account)
        frames = _frames_to_the_end(socket)
    assert frames[-1].closing == REVOKED
    assert all(frame.opcode == BINARY and set(frame.payload) <= {frame.payload[0]} for frame in frames[:-1])


def test_who_has_said_goodbye_already_is_not_told_twice(
    gateway: Gateway, upstream: RecordingUpstream, account: Account
) -> None:
    """The caller has closed, and the upstream is slow to answer: our Close answers the one, the other has one."""
    far = FarEnd()
    upstream.on(PATH, far)
    with Socket(gateway, PATH, account.line) as socket:
        socket.say(close(4000, "my own reason"))
        assert far.frame().closing == (4000, "my own reason")
        log_out(gateway, account)
        assert socket.closed() == ((1008, "token_revoked") if gateway.face == "serve" else (4000, "my own reason"))
        far.gone(within=3.0)
        assert far.heard() == []


def test_who_does_not_answer_is_not_waited_for(gateway: Gateway, upstream: RecordingUpstream, account: Account) -> None:
    """Neither side answers our Close. How long a caller is given for it under ASGI is the server's."""
    far = FarEnd()
    upstream.on(PATH, far)
    with Socket(gateway, PATH, account.line) as socket:
        log_out(gateway, account)
        assert socket.closed() == REVOKED
        assert far.gone(within=1.5) in ("fin", "reset")
        if gateway.face == "serve":
            socket.ended(within=1.5)


def test_who_reads_nothing_is_cut_off(gateway: Gateway, upstream: RecordingUpstream, account: Account) -> None:
    """The upstream is released at once; what the caller has not read by then, and more, it does not get."""
    upstream.on(PATH, _flooding)
    with Socket(gateway, PATH, account.line, receive_buffer=512 * 1024) as socket:
        time.sleep(0.5)
        log_out(gateway, account)
        eventually(lambda: upstream.only.link.ended, timeout=3.0)
        if gateway.face == "serve":
            time.sleep(2.5)  # the last call is over, and nothing was read
        decoder = Decoder()
        socket.socket.settimeout(1.0)
        data = _read_until(socket, 1 << 40)
        assert len(data) < 16 * MiB
        assert all(frame.opcode in (BINARY, CLOSE) for frame in decoder.feed(data))


# ---- when the gateway stops


@pytest.fixture
def own(town: Town, face: Face, tmp_path: Path) -> Iterator[Callable[[], Gateway]]:
    started: list[Gateway] = []

    def start() -> Gateway:
        started.append(Gateway(face, changed(town.configuration(tmp_path), server={"drain": "5s"}), tmp_path))
        return started[-1].start()

    yield start
    for gateway in started:
        gateway.kill()


ANYBODY = "/sockets-of-anybody/goodbye"


def test_a_gateway_that_stops_says_goodbye_to_all_and_ends_well(
    own: Callable[[], Gateway], upstream: RecordingUpstream
) -> None:
    """1001, going away; uvicorn says 1012, service restart."""
    gateway = own()
    upstream.on(ANYBODY, echoing())
    sockets = [Socket(gateway, ANYBODY) for _ in range(100)]
    code = 1001 if gateway.face == "serve" else 1012
    started = time.monotonic()
    gateway.signal()
    for socket in sockets:
        assert socket.closed(within=2.0)[0] == code
        socket.say(close(code))
    for socket in sockets:
        assert socket.ended()[1] == b""
        socket.close()
    ended = gateway.wait()
    assert ended in ((0,) if gateway.face == "serve" else (0, -signal.SIGTERM))
    assert time.monotonic() - started < 4.0
    eventually(lambda: all(received.link.ended for received in upstream.requests))
    assert not unhandled(gateway)


def test_the_upstream_is_told_as_well(own: Callable[[], Gateway], upstream: RecordingUpstream) -> None:
    gateway = own()
    far = FarEnd()
    upstream.on(ANYBODY, far)
    with Socket(gateway, ANYBODY):
        gateway.signal()
        assert far.frame().closing[0] == (1001 if gateway.face == "serve" else 1012)


def test_a_handshake_on_its_way_is_finished_and_then_told(
    own: Callable[[], Gateway], upstream: RecordingUpstream
) -> None:
    """Else it would begin after everybody had been told, and last as long as the drain."""
    gateway = own()
    released = threading.Event()

    async def slowly(exchange: Exchange) -> None:
        while not released.is_set():
            await asyncio.sleep(0.01)
        await echoing()(exchange)

    upstream.on(ANYBODY, slowly)
    with gateway.caller() as caller:
        caller.send(handshake(ANYBODY))
        upstream.arrived()
        gateway.signal()
        time.sleep(0.3)
        released.set()
        if gateway.face == "serve":
            assert caller.receive().status == 101
            assert caller.ended()[1].startswith(b"\x88\x19\x03\xe9the gateway")
            with within(2.0):
                assert gateway.wait() == 0
        else:  # uvicorn answers 500 itself
            caller.ended()
            gateway.wait()


def test_nobody_keeps_it_from_ending(own: Callable[[], Gateway], upstream: RecordingUpstream) -> None:
    """Ends that do not answer, that are in the middle of a frame, and one that reads nothing at all."""
    gateway = own()
    upstream.on(ANYBODY, FarEnd())
    upstream.on(ANYBODY + "/flood", _flooding)
    deaf, amid = Socket(gateway, ANYBODY), Socket(gateway, ANYBODY)
    amid.send(encode(Frame(BINARY, b"x" * 1000), masked=True)[:600])
    standing = Socket(gateway, ANYBODY + "/flood", receive_buffer=512 * 1024)
    time.sleep(0.3)
    gateway.signal()
    if gateway.face == "serve":
        with within(4.0):
            assert gateway.wait() == 0
    else:  # uvicorn waits for what has not been read for as long as it takes
        time.sleep(0.5)
        standing.close()
        gateway.wait()
    for socket in (deaf, amid, standing):
        socket.close()


# ---- when the configuration changes


def test_websockets_outlive_a_reload_and_are_looked_after_as_before(
    town: Town, upstream: RecordingUpstream, tmp_path: Path
) -> None:
    configuration = town.configuration(tmp_path)
    gateway = Gateway("serve", configuration, tmp_path).start()
    try:
        upstream.on(PATH, echoing())
        account = gateway.newcomer()
        with Socket(gateway, PATH, account.line) as socket:
            socket.say(text("before")).frame()
            configuration["routes"].append({"path": "/added", "auth": "none", "upstream": "web"})
            configuration["routes"] = [route for route in configuration["routes"] if route["path"] != "/sockets/**"]
            gateway.config.write_text(yaml.safe_dump(configuration))
            gateway.signal(signal.SIGHUP)
            eventually(lambda: gateway.get("/added").status == 200)
            assert gateway.ask(handshake(PATH, account.line)).status == 404
            assert socket.say(text("after")).frame().payload == b"after"
            log_out(gateway, account)
            assert socket.closed(within=1.0) == REVOKED
    finally:
        gateway.kill()


# ---- inside


async def _flooding(exchange: Exchange) -> None:
    """Frames of many sizes without end."""
    await exchange.send(switching(exchange.request))
    frames = [encode(Frame(BINARY, bytes((size % 251,)) * size)) for size in (1, 125, 126, 4000, 65535, 65536, 200_000)]
    while True:
        await exchange.send(b"".join(frames))
        await asyncio.sleep(0.01)  # enough to be amid frames at any moment, and the test keeps up with it


def _read_until(socket: Socket, count: int) -> bytes:
    """That many bytes, as they come from the connection, or all that there are."""
    got = bytearray()
    try:
        while len(got) < count:
            if not socket._buffer:
                socket._more()
            got += socket._take(min(count - len(got), len(socket._buffer)))
    except (_Ended, TimeoutError):
        pass
    socket._frames += socket._decoder.feed(bytes(got))
    return bytes(got)


def _frames_to_the_end(socket: Socket) -> list[Frame]:
    """All frames up to the Close, which must be the last bytes of all."""
    frames = []
    while not frames or frames[-1].opcode != CLOSE:
        frames.append(socket.frame())
    socket.say(close(1008))
    assert socket.ended()[1] == b""
    assert socket._decoder.held == 0
    return frames
