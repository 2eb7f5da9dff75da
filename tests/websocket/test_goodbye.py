"""The gateway ends a WebSocket whose caller has lost access: with a Close between two frames, never within one."""

import os
import time

import pytest

from tests.support.processes import Account, Gateway
from tests.support.raw import MiB
from tests.support.recording import RecordingUpstream
from tests.support.waiting import eventually, promised, within
from tests.support.websockets import (
    BINARY,
    CLOSE,
    Decoder,
    FarEnd,
    Frame,
    Socket,
    close,
    encode,
    flooding,
    text,
)

PATH = "/sockets/goodbye"
REVOKED = (1008, "token_revoked")


@pytest.fixture
def account(gateway: Gateway) -> Account:
    return gateway.newcomer()


def log_out(gateway: Gateway, account: Account) -> None:
    assert gateway.post("/auth/logout", b"", account.line).status == 204


def test_both_sides_receive_the_reason(gateway: Gateway, upstream: RecordingUpstream, account: Account) -> None:
    far = FarEnd()
    upstream.on(PATH, far)
    with Socket(gateway, PATH, account.line) as socket:
        log_out(gateway, account)
        with within(promised(1.0)):
            assert socket.closed() == REVOKED
            heard = far.frame()
        assert heard.closing == REVOKED
        assert heard.masked
        socket.say(close(1008))
        with within(promised(1.0)):
            assert socket.ended() == ("fin", b"")
        far.say(close(1008))
        assert far.gone(within=promised(1.0)) in ("fin", "reset")


def test_a_frame_of_the_upstream_is_ended_before_the_close(
    gateway: Gateway, upstream: RecordingUpstream, account: Account
) -> None:
    far = FarEnd()
    upstream.on(PATH, far)
    frame = encode(Frame(BINARY, os.urandom(MiB)))
    with Socket(gateway, PATH, account.line) as socket:
        far.send(frame[: MiB // 2])
        socket.read(MiB // 2 - 4096 if gateway.face == "serve" else 0)
        log_out(gateway, account)
        assert far.frame().closing == REVOKED  # this direction was free
        far.send(frame[MiB // 2 :] + encode(text("and one more")))
        frames = _frames_to_the_end(socket)
        if gateway.face == "serve":
            assert encode(frames[0]) == frame
            assert [each.closing for each in frames[1:]] == [REVOKED]
        else:  # no part of the message was sent to the client
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
        got = socket.read(len(half) if gateway.face == "serve" else 0)
        started = time.monotonic()
        log_out(gateway, account)
        if gateway.face == "serve":
            _, rest = socket.ended(within=2.0)
            assert got + rest == half
            assert time.monotonic() - started < promised(1.5)
        else:
            assert socket.closed() == REVOKED


@pytest.mark.parametrize("_", range(4))
def test_amid_a_flood_the_close_stands_between_two_frames(
    gateway: Gateway, upstream: RecordingUpstream, account: Account, _: int
) -> None:
    upstream.on(PATH, flooding)
    with Socket(gateway, PATH, account.line) as socket:
        socket.frame()
        log_out(gateway, account)
        frames = _frames_to_the_end(socket)
    assert frames[-1].closing == REVOKED
    assert all(frame.opcode == BINARY and set(frame.payload) <= {frame.payload[0]} for frame in frames[:-1])


def test_a_side_that_has_sent_a_close_frame_receives_no_second_one(
    gateway: Gateway, upstream: RecordingUpstream, account: Account
) -> None:
    """The client has closed, and the upstream is slow to answer: the gateway's Close answers the client, and the
    upstream already has one."""
    far = FarEnd()
    upstream.on(PATH, far)
    with Socket(gateway, PATH, account.line) as socket:
        socket.say(close(4000, "my own reason"))
        assert far.frame().closing == (4000, "my own reason")
        log_out(gateway, account)
        assert socket.closed() == ((1008, "token_revoked") if gateway.face == "serve" else (4000, "my own reason"))
        far.gone(within=3.0)
        assert far.heard() == []


def test_a_side_that_does_not_answer_the_close_is_not_awaited(
    gateway: Gateway, upstream: RecordingUpstream, account: Account
) -> None:
    """Neither side answers the gateway's Close. Under ASGI the server limits the wait for the client."""
    far = FarEnd()
    upstream.on(PATH, far)
    with Socket(gateway, PATH, account.line) as socket:
        log_out(gateway, account)
        assert socket.closed() == REVOKED
        assert far.gone(within=1.5) in ("fin", "reset")
        if gateway.face == "serve":
            socket.ended(within=1.5)


def test_a_side_that_reads_nothing_is_cut_off(gateway: Gateway, upstream: RecordingUpstream, account: Account) -> None:
    """The upstream is released at once. The client does not get the bytes it has not read by then."""
    upstream.on(PATH, flooding)
    with Socket(gateway, PATH, account.line, receive_buffer=512 * 1024) as socket:
        time.sleep(0.5)
        log_out(gateway, account)
        eventually(lambda: upstream.only.link.ended, timeout=3.0)
        if gateway.face == "serve":
            time.sleep(2.5)  # the last call is over, and nothing was read
        decoder = Decoder()
        socket.socket.settimeout(1.0)
        data = socket.read(1 << 40)
        assert len(data) < 16 * MiB
        assert all(frame.opcode in (BINARY, CLOSE) for frame in decoder.feed(data))


# ---- helpers


def _frames_to_the_end(socket: Socket) -> list[Frame]:
    """All frames up to the Close, which must be the last bytes."""
    frames: list[Frame] = []
    while not frames or frames[-1].opcode != CLOSE:
        frames.append(socket.frame())
    socket.say(close(1008))
    assert socket.ended()[1] == b""
    assert socket.incomplete == 0
    return frames
