"""The end of a WebSocket: by a Close of either side, with its code and reason, or without one."""

import pytest

from tests.support.processes import Gateway
from tests.support.recording import RecordingUpstream
from tests.support.waiting import eventually
from tests.support.websockets import BINARY, CLOSE, FarEnd, Frame, Socket, close, encode, text

PATH = "/public-sockets/closing"

# ---- Close

CLOSES = [
    close(),
    close(1000),
    close(1000, "all is said"),
    close(1001, "going away"),
    close(1003, "no binary, please"),
    close(1008, "policy"),
    close(1009),
    close(1011, "oops"),
    close(3000),
    close(3999, "registered"),
    close(4000, ""),
    close(4001, "täglich 家"),
    close(4999, "r" * 123),
    close(4400, "ä" * 61),
]


@pytest.mark.parametrize("frame", CLOSES, ids=lambda frame: f"{frame.closing[0]}-{frame.closing[1][:6]}")
def test_a_callers_close_reaches_the_upstream(gateway: Gateway, upstream: RecordingUpstream, frame: Frame) -> None:
    far = FarEnd()
    upstream.on(PATH, far)
    with Socket(gateway, PATH) as socket:
        socket.say(text("last words"), frame)
        assert far.frame().payload == b"last words"
        assert far.frame().closing == frame.closing
        far.say(frame)
        assert socket.closed() == frame.closing
        far.hang_up()
        assert socket.ended()[0] == "fin"


@pytest.mark.parametrize("frame", CLOSES, ids=lambda frame: f"{frame.closing[0]}-{frame.closing[1][:6]}")
def test_an_upstreams_close_reaches_the_caller(gateway: Gateway, upstream: RecordingUpstream, frame: Frame) -> None:
    far = FarEnd()
    upstream.on(PATH, far)
    with Socket(gateway, PATH) as socket:
        far.say(text("last words"), frame)
        assert socket.frame().payload == b"last words"
        expected = frame.closing
        if gateway.face == "asgi" and expected == (None, ""):
            expected = (1000, "")  # ASGI cannot express a Close without a code
        assert socket.closed() == expected
        socket.say(frame)
        assert far.frame().closing == frame.closing
        far.hang_up()
        assert socket.ended()[0] == "fin"


# ---- ends without a Close


@pytest.mark.parametrize("reset", [False, True])
def test_a_vanished_client_is_not_reported_as_a_clean_close(
    gateway: Gateway, upstream: RecordingUpstream, reset: bool
) -> None:
    """An upstream that receives 1000 would treat an incomplete conversation as complete. uvicorn cannot distinguish
    this end from a Close without a code, so the upstream receives that there."""
    far = FarEnd()
    upstream.on(PATH, far)
    socket = Socket(gateway, PATH)
    socket.say(text("hello"))
    assert far.frame().payload == b"hello"
    socket.reset() if reset else socket.close()
    if gateway.face == "asgi":
        assert far.frame().closing == (None, "")
    assert far.gone() in ("fin", "reset")
    assert far.heard() == []


@pytest.mark.parametrize("reset", [False, True])
def test_a_client_that_vanishes_in_a_frame_drops_it(gateway: Gateway, upstream: RecordingUpstream, reset: bool) -> None:
    far = FarEnd()
    upstream.on(PATH, far)
    socket = Socket(gateway, PATH)
    socket.send(encode(Frame(BINARY, b"x" * 1000), masked=True)[:500])
    if gateway.face == "serve":
        eventually(lambda: far.taken == 500)
    socket.reset() if reset else socket.close()
    assert far.gone() in ("fin", "reset")
    assert [frame for frame in far.heard() if frame.opcode != CLOSE] == []


@pytest.mark.parametrize("reset", [False, True])
def test_an_upstream_that_vanishes_ends_the_callers_connection(
    gateway: Gateway, upstream: RecordingUpstream, reset: bool
) -> None:
    """Without a Close: the client sees 1006."""
    far = FarEnd()
    upstream.on(PATH, far)
    with Socket(gateway, PATH) as socket:
        far.say(text("hello"))
        assert socket.frame().payload == b"hello"
        far.hang_up(reset=reset)
        ending, rest = socket.ended(within=2.0)
        assert rest == b""
        assert ending in ("fin", "reset")


def test_data_sent_before_an_upstream_vanished_still_arrive(gateway: Gateway, upstream: RecordingUpstream) -> None:
    far = FarEnd()
    upstream.on(PATH, far)
    with Socket(gateway, PATH) as socket:
        far.say(*(Frame(BINARY, b"%d" % number * 10_000) for number in range(10)))
        far.hang_up()
        assert [socket.message() for _ in range(10)] == [b"%d" % number * 10_000 for number in range(10)]
        assert socket.ended()[1] == b""
