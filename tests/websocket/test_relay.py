"""Messages, control frames and Closes through the gateway, in both directions."""

import os
import random
import threading

import pytest

from tests.support.processes import Gateway
from tests.support.raw import MiB
from tests.support.recording import RecordingUpstream
from tests.support.scale import WHOLE
from tests.support.waiting import eventually
from tests.support.websockets import (
    BINARY,
    CLOSE,
    CONT,
    PING,
    PONG,
    TEXT,
    FarEnd,
    Frame,
    Socket,
    echoing,
    encode,
    frames_of,
    text,
)

PATH = "/public-sockets/relay"

SIZES = (0, 1, 7, 125, 126, 127, 128, 65535, 65536, 65537, 262144, MiB)


# ---- messages


@pytest.mark.parametrize("size", SIZES)
def test_messages_of_every_size_arrive_whole_both_ways(
    gateway: Gateway, upstream: RecordingUpstream, size: int
) -> None:
    upstream.on(PATH, echoing())
    binary, words = os.urandom(size), ("häuser, 家, 🏠! " * (size // 20 + 1)).encode()[: max(0, size - 3)]
    words = words.decode(errors="ignore").encode()
    with Socket(gateway, PATH) as socket:
        socket.say(Frame(BINARY, binary), Frame(TEXT, words))
        first, second = _message(socket), _message(socket)
    assert first == (BINARY, binary)
    assert second == (TEXT, words)


def test_a_message_of_16_mib_arrives_both_ways(gateway: Gateway, upstream: RecordingUpstream) -> None:
    """The maximum for stock uvicorn (--ws-max-size); the gateway has no limit of its own."""
    upstream.on(PATH, echoing())
    message = os.urandom(1024) * 16 * 1024
    with Socket(gateway, PATH) as socket:
        socket.say(Frame(BINARY, message))
        assert socket.message(within=20) == message


def test_a_message_above_the_limit_of_uvicorn_comes_from_the_upstream(
    gateway: Gateway, upstream: RecordingUpstream
) -> None:
    far = FarEnd()
    upstream.on(PATH, far)
    message = os.urandom(1024) * 1024 * (64 if WHOLE else 17)
    with Socket(gateway, PATH) as socket:
        sending = threading.Thread(target=far.say, args=(Frame(BINARY, message),))
        sending.start()
        assert socket.message(within=20) == message
        sending.join()


@pytest.mark.parametrize("sizes", [(0,), (1,), (1, 1, 1), (0, 0, 5), (126, 65536), (3,) * 200])
def test_a_message_in_fragments_is_the_same_message(
    gateway: Gateway, upstream: RecordingUpstream, sizes: tuple[int, ...]
) -> None:
    """`gateway serve` forwards fragments unchanged; ASGI has only complete messages."""
    far = FarEnd()
    upstream.on(PATH, far)
    message = os.urandom(sum(sizes) + 9)
    frames = frames_of(message, sizes)
    with Socket(gateway, PATH) as socket:
        socket.say(*frames)
        got = [far.frame()]
        while not got[-1].fin:
            got.append(far.frame())
        assert b"".join(frame.payload for frame in got) == message
        far.say(*frames)
        assert socket.message() == message
        assert all(frame.masked for frame in got)
        if gateway.face == "serve":
            assert [frame.payload for frame in got] == [frame.payload for frame in frames]
            assert [frame.opcode for frame in got] == [BINARY, *([CONT] * len(sizes))]


def test_text_cut_inside_a_character_is_put_together(gateway: Gateway, upstream: RecordingUpstream) -> None:
    upstream.on(PATH, echoing())
    message = "ä€🏠".encode()
    with Socket(gateway, PATH) as socket:
        socket.say(*frames_of(message, [1] * (len(message) - 1), opcode=TEXT))
        assert socket.message() == message


def test_frames_may_come_byte_by_byte(gateway: Gateway, upstream: RecordingUpstream) -> None:
    far = FarEnd()
    upstream.on(PATH, far)
    frames = (text("one"), Frame(BINARY, b"x" * 200), Frame(BINARY))
    with Socket(gateway, PATH) as socket:
        for byte in encode(*frames, masked=True):
            socket.send(bytes((byte,)))
        assert [far.frame().payload for _ in frames] == [frame.payload for frame in frames]
        for byte in encode(*frames):
            far.send(bytes((byte,)))
        assert [socket.frame().payload for _ in frames] == [frame.payload for frame in frames]


def _say_all(far: FarEnd, payloads: list[bytes]) -> None:
    for payload in payloads:
        far.say(Frame(BINARY, payload))


def test_both_sides_may_speak_at_once(gateway: Gateway, upstream: RecordingUpstream) -> None:
    far = FarEnd()
    upstream.on(PATH, far)
    mine = [os.urandom(random.Random(number).choice((3, 300, 30_000))) for number in range(200)]
    theirs = [payload[::-1] for payload in mine]
    with Socket(gateway, PATH) as socket:
        speaking = threading.Thread(target=_say_all, args=(far, theirs))
        speaking.start()
        for payload in mine:
            socket.say(Frame(BINARY, payload))
        assert [socket.message() for _ in theirs] == theirs
        assert [far.frame().payload for _ in mine] == mine
        speaking.join()


def test_sockets_do_not_hear_each_other(gateway: Gateway, upstream: RecordingUpstream) -> None:
    upstream.on(PATH, echoing())
    sockets = [Socket(gateway, PATH) for _ in range(30)]
    for round_ in range(5):
        for number, socket in enumerate(sockets):
            socket.say(text(f"{round_}: I am {number}"))
        for number, socket in enumerate(sockets):
            assert socket.frame().payload == f"{round_}: I am {number}".encode()
    for socket in sockets:
        socket.close()


# ---- Ping and Pong


def test_a_ping_of_the_caller_is_answered(gateway: Gateway, upstream: RecordingUpstream) -> None:
    far = FarEnd()
    upstream.on(PATH, far)
    with Socket(gateway, PATH) as socket:
        socket.say(Frame(PING, b"are you there?"))
        if gateway.face == "serve":  # by the upstream
            assert far.frame()[:2] == (PING, b"are you there?")
            far.say(Frame(PONG, b"are you there?"))
        assert socket.frame() == Frame(PONG, b"are you there?")
        assert far.heard() == []


def test_a_ping_of_the_upstream_is_answered(gateway: Gateway, upstream: RecordingUpstream) -> None:
    far = FarEnd()
    upstream.on(PATH, far)
    with Socket(gateway, PATH) as socket:
        far.say(Frame(PING, b"and you?"))
        if gateway.face == "serve":  # by the client
            assert socket.frame() == Frame(PING, b"and you?")
            socket.say(Frame(PONG, b"and you?"))
        assert far.frame()[:2] == (PONG, b"and you?")


def test_control_frames_may_stand_between_fragments(gateway: Gateway, upstream: RecordingUpstream) -> None:
    """RFC 6455 5.4."""
    far = FarEnd()
    upstream.on(PATH, far)
    frames = [Frame(TEXT, b"Hel", fin=False), Frame(PING, b"1"), Frame(CONT, b"lo", fin=True), Frame(PONG, b"2")]
    with Socket(gateway, PATH) as socket:
        socket.say(*frames)
        heard = far.frame()
        while not heard.fin or heard.opcode in (PING, PONG):
            heard = far.frame()
        assert heard.payload in (b"lo", b"Hello")
        far.say(*frames)
        assert socket.message() == b"Hello"


# ---- invalid frames


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (encode(Frame(BINARY, b"x"), masked=True), 1002),
        (encode(Frame(3, b"x")), 1002),
        (encode(Frame(BINARY, b"x", rsv=4)), 1002),
        (encode(Frame(CONT, b"x")), 1002),
        (encode(Frame(PING, b"x" * 126)), 1002),
        (encode(Frame(TEXT, b"\xff\xfe")), 1007),
        (encode(Frame(CLOSE, b"\x03")), 1002),
    ],
    ids=["masked", "opcode", "reserved bit", "nothing to continue", "long ping", "no UTF-8", "half a code"],
)
def test_an_upstream_that_breaks_the_protocol_is_judged_by_the_client(
    gateway: Gateway, upstream: RecordingUpstream, data: bytes, code: int
) -> None:
    """`gateway serve` forwards frames unchanged: the client validates. Under ASGI the gateway reads them: the upstream
    receives the reason, and the client 1014 for an invalid upstream."""
    far = FarEnd()
    upstream.on(PATH, far)
    with Socket(gateway, PATH) as socket:
        far.send(data)
        if gateway.face == "serve":
            assert socket.read(len(data)) == data
        else:
            assert far.frame().closing[0] == code
            assert socket.closed()[0] == 1014


def test_an_oversized_frame_ends_only_its_own_connection(gateway: Gateway, upstream: RecordingUpstream) -> None:
    """A header can announce 2^63 bytes. The gateway reserves no memory for them."""
    far = FarEnd()
    upstream.on(PATH, far)
    before = gateway.memory()
    with Socket(gateway, PATH) as socket:
        socket.send(b"\x82\xff" + b"\x7f" + b"\xff" * 7 + b"mask" + b"x" * 100)
        if gateway.face == "serve":
            eventually(lambda: far.taken == 114)
        else:
            assert socket.closed()[0] == 1009
    far.gone()
    assert gateway.memory() - before < 4 * MiB


def _message(socket: Socket) -> tuple[int, bytes]:
    first = frame = socket.frame()
    payload = frame.payload
    while not frame.fin:
        frame = socket.frame()
        payload += frame.payload
    return first.opcode, payload
