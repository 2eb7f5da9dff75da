"""WebSocket parsing: keys, offers, and frame boundaries, against a model that reads every byte."""

import itertools
import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.wire.websocket import (
    FrameCounter,
    accept_of,
    close_frame,
    field_value,
    handshake_answer,
    new_key,
    offered_protocols,
    valid_key,
    without_credential,
)
from tests.support.websockets import BINARY, CLOSE, CONT, PING, PONG, TEXT, Decoder, Frame, encode

# ---- frames


class Model:
    """Follows frames one byte at a time, by the diagram in RFC 6455 5.2."""

    def __init__(self) -> None:
        self.head = b""
        self.left = 0
        self.closing = False

    @property
    def between(self) -> bool:
        return not self.head and not self.left

    def feed(self, data: bytes) -> None:
        for byte in data:
            if self.left:
                self.left -= 1
                continue
            self.head += bytes((byte,))
            if len(self.head) < 2:
                continue
            length, masked = self.head[1] & 127, self.head[1] >> 7
            extended = {126: 2, 127: 8}.get(length, 0)
            if len(self.head) < 2 + extended:
                continue
            if extended:
                length = int.from_bytes(self.head[2:], "big")
            self.closing = self.closing or self.head[0] & 15 == CLOSE
            self.left, self.head = length + 4 * masked, b""

    def rest(self, data: bytes) -> int | None:
        """The offset at which the current frame ends."""
        copy = Model()
        copy.head, copy.left = self.head, self.left
        for at in range(len(data) + 1):
            if copy.between:
                return at
            copy.feed(data[at : at + 1])
        return None


lengths = st.one_of(
    st.integers(0, 20), st.sampled_from((124, 125, 126, 127, 128, 255, 256, 65535, 65536, 65537)), st.integers(0, 3000)
)
opcodes = st.sampled_from((CONT, TEXT, BINARY, PING, PONG, CLOSE, 3, 11))
streams = st.lists(
    st.builds(
        lambda opcode, length, masked, fin, rsv: encode(
            Frame(opcode, random.Random(length).randbytes(length), fin, rsv), masked=masked
        ),
        opcodes,
        lengths,
        st.booleans(),
        st.booleans(),
        st.integers(0, 7),
    ),
    max_size=12,
).map(b"".join)


@given(stream=streams | st.binary(max_size=60), data=st.data())
def test_the_counter_agrees_with_a_count_of_every_byte(stream: bytes, data: st.DataObject) -> None:
    counter, model = FrameCounter(), Model()
    for piece in pieces(stream, data):
        assert counter.rest(piece) == model.rest(piece)
        counter.feed(piece)
        model.feed(piece)
        assert (counter.between, counter.closing) == (model.between, model.closing)


def pieces(stream: bytes, data: st.DataObject) -> Sequence[bytes]:
    """The stream in arbitrary pieces: a read can end within a header."""
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=20))
    edges = [0, *sorted(cuts), len(stream)]
    return [stream[start:end] for start, end in itertools.pairwise(edges)]


@given(stream=streams, at=st.integers(0, 5000), more=st.integers(0, 5000), masked=st.booleans())
def test_a_frame_put_where_one_ends_breaks_no_other(stream: bytes, at: int, more: int, masked: bool) -> None:
    """The tunnel closes in this way: it sends the rest of the current frame, and then a frame of its own."""
    counter = FrameCounter()
    passed, coming = stream[:at], stream[at:][:more]
    counter.feed(passed)
    rest = counter.rest(coming)
    if rest is None:
        return
    before, decoder = encode_all(stream), Decoder()
    frames = decoder.feed(passed + coming[:rest] + close_frame(1008, "token_expired", masked=masked))
    assert decoder.held == 0
    assert frames[-1].closing == (1008, "token_expired")
    assert frames[-1].masked == masked
    assert frames[:-1] == before[: len(frames) - 1]


def encode_all(stream: bytes) -> list[Frame]:
    return Decoder().feed(stream)


@pytest.mark.parametrize("length", [2**16, 2**32, 2**63 - 1, 2**64 - 1])
def test_an_impossible_length_is_only_a_number(length: int) -> None:
    counter = FrameCounter()
    counter.feed(b"\x82\x7f" + length.to_bytes(8, "big"))
    assert not counter.between
    counter.feed(b"x" * 65536)
    assert counter.between == (length == 65536)


@given(reason=st.text(max_size=200), code=st.integers(1000, 4999), masked=st.booleans())
def test_a_close_frame_is_valid_for_any_reason(reason: str, code: int, masked: bool) -> None:
    (frame,) = Decoder().feed(close_frame(code, reason, masked=masked))
    assert (frame.opcode, frame.fin, frame.rsv, frame.masked) == (CLOSE, True, 0, masked)
    assert len(frame.payload) <= 125
    given_code, text = frame.closing
    assert given_code == code
    assert reason.startswith(text)
    assert len(reason.encode()) > 120 or text == reason


# ---- keys


def test_the_rfcs_own_example() -> None:
    """RFC 6455 1.3."""
    assert accept_of(b"dGhlIHNhbXBsZSBub25jZQ==") == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


@pytest.mark.parametrize(
    ("key", "good"),
    [
        (b"dGhlIHNhbXBsZSBub25jZQ==", True),
        (b"AAAAAAAAAAAAAAAAAAAAAA==", True),
        (None, False),
        (b"", False),
        (b"AAAA", False),
        (b"AAAAAAAAAAAAAAAAAAAAAA", False),
        (b"AAAAAAAAAAAAAAAAAAAAAA=", False),
        (b"AAAAAAAAAAAAAAAAAAAAAAA=", False),
        (b"AAAAAAAAAAAAAAAAAAAAAA==AAAA", False),
        (b"AAAAAAAAAAAAAAAAAAAAA\n==", False),
        (b"AAAAAAAAAAAAAAAAAAAAA*==", False),
        (b"AAAAAAAAAAAAAAAAAAAAA\xe4==", False),
        (b"____________________-w==", False),
    ],
)
def test_a_key_is_sixteen_bytes_in_base64(key: bytes | None, good: bool) -> None:
    assert valid_key(key) == good


def test_own_keys_are_good_and_differ() -> None:
    keys = {new_key() for _ in range(100)}
    assert len(keys) == 100
    assert all(valid_key(key) for key in keys)


# ---- offers

NAME = b"Sec-WebSocket-Protocol"


@pytest.mark.parametrize(
    ("lines", "protocols", "word", "tokens"),
    [
        ([], (), None, ()),
        ([b""], (), None, ()),
        ([b"chat, superchat"], (b"chat", b"superchat"), None, ()),
        ([b"bearer, t"], (), b"bearer", (b"t",)),
        ([b"BEARER,t"], (), b"BEARER", (b"t",)),
        ([b"a, bearer, t, b"], (b"a", b"b"), b"bearer", (b"t",)),
        ([b"a", b"bearer", b"t", b"b"], (b"a", b"b"), b"bearer", (b"t",)),
        ([b"t, bearer"], (b"t",), b"bearer", ()),
        ([b"bearer, bearer, t"], (), b"bearer", (b"t",)),
        ([b"bearer, t, bearer, u"], (), b"bearer", (b"t", b"u")),
        ([b",, bearer ,\t, t ,"], (), b"bearer", (b"t",)),
        ([b"bearers, t"], (b"bearers", b"t"), None, ()),
    ],
)
def test_an_offer_is_one_list_over_all_lines(
    lines: list[bytes], protocols: tuple[bytes, ...], word: bytes | None, tokens: tuple[bytes, ...]
) -> None:
    fields = [(NAME, line) for line in lines]
    assert offered_protocols(fields) == (protocols, word, tokens)


words = st.sampled_from((b"bearer", b"Bearer", b"chat", b"v1.json", b"tok.en-1", b"tok.en-2"))


@given(lines=st.lists(st.lists(words, max_size=4).map(b", ".join), max_size=4))
def test_the_text_after_bearer_is_never_forwarded(lines: list[bytes]) -> None:
    fields = [(b"X", b"1"), *((NAME, line) for line in lines), (b"Y", b"2")]
    offer = offered_protocols(fields)
    kept = without_credential(fields)
    left = offered_protocols(kept)
    assert left.protocols == offer.protocols
    if offer.word is None:
        assert kept == fields
    else:
        assert (left.word, left.tokens) == (None, ())
        assert [field for field in kept if field[0] != NAME] == [(b"X", b"1"), (b"Y", b"2")]


@pytest.mark.parametrize(
    ("offered", "chosen", "answered"),
    [
        (None, [], []),
        (b"chat", [], []),
        (b"bearer, t", [], [b"bearer"]),
        (b"Bearer, t", [], [b"Bearer"]),
        (b"bearer, t, chat", [b"chat"], [b"chat"]),
        (b"chat", [b"chat"], [b"chat"]),
        (None, [b"unasked"], [b"unasked"]),
    ],
)
def test_bearer_is_answered_where_nothing_else_is(
    offered: bytes | None, chosen: list[bytes], answered: list[bytes]
) -> None:
    request = [] if offered is None else [(NAME, offered)]
    fields = handshake_answer([(b"Server", b"s"), (b"Content-Length", b"0"), *((NAME, one) for one in chosen)], request)
    assert fields == [(b"Server", b"s"), *((NAME, one) for one in answered)]


def test_a_field_that_may_stand_once_has_no_value_when_it_stands_twice() -> None:
    fields = [(b"A", b" 1 "), (b"B", b"2"), (b"b", b"3")]
    assert field_value(fields, b"a") == b"1"
    assert field_value(fields, b"b") is None
    assert field_value(fields, b"c") is None
