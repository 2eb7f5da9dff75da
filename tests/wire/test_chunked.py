"""The chunked coding: the end of a body, refused bytes, and independence of both from network reads."""

import time
from collections.abc import Iterator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.wire.chunked import ChunkedDecoder, ChunkedFault, ChunkedTooLarge

LIMIT = 200

# How decoding ended, the body so far, the trailers, and the bytes behind the message.
Outcome = tuple[str, bytes, list[tuple[bytes, bytes]], bytes]


def decode(parts: Iterator[bytes] | list[bytes], *, trailers: int = LIMIT, extensions: int = LIMIT) -> Outcome:
    """Feed the parts in order, and the unused bytes of each call again, as the interface requires."""
    decoder = ChunkedDecoder(trailers, extensions)
    pieces: list[bytes] = []
    unused = b""
    try:
        for part in parts:
            unused += part
            while unused and not decoder.done:
                unused = decoder.feed(unused, pieces)
    except ChunkedTooLarge:
        return "too large", b"".join(pieces), [], b""
    except ChunkedFault:
        return "fault", b"".join(pieces), [], b""
    return "done" if decoder.done else "more", b"".join(pieces), decoder.trailers, unused


def whole(data: bytes) -> Outcome:
    return decode([data])


def by_bytes(data: bytes) -> Outcome:
    return decode([data[at : at + 1] for at in range(len(data))])


COMPLETE = {
    "empty": (b"0\r\n\r\n", b""),
    "one chunk": (b"5\r\nhello\r\n0\r\n\r\n", b"hello"),
    "two chunks": (b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n", b"hello world"),
    "upper case": (b"A\r\n0123456789\r\n0\r\n\r\n", b"0123456789"),
    "lower case": (b"a\r\n0123456789\r\n0\r\n\r\n", b"0123456789"),
    "padded size": (b"0000000000000003\r\nabc\r\n0000000000000000\r\n\r\n", b"abc"),
    "data that looks like framing": (b"5\r\n0\r\n\r\n\r\n0\r\n\r\n", b"0\r\n\r\n"),
    "two digits of both cases": (b"0aB\r\n" + b"x" * 171 + b"\r\n0\r\n\r\n", b"x" * 171),
    "beyond the table of small sizes": (b"100\r\n" + b"x" * 256 + b"\r\n0\r\n\r\n", b"x" * 256),
    "extension": (b"3;a\r\nabc\r\n0\r\n\r\n", b"abc"),
    "extension with a value": (b"3;a=b\r\nabc\r\n0;last=1\r\n\r\n", b"abc"),
    "quoted extension": (b'3;a="; \\" \xff=\\\\"\r\nabc\r\n0\r\n\r\n', b"abc"),
    "several extensions": (b'3;a;b=c;d="e"\r\nabc\r\n0\r\n\r\n', b"abc"),
    "white space among extensions": (b'3;\ta =\t"b" ; c\r\nabc\r\n0\r\n\r\n', b"abc"),
}

REFUSED = {
    "no size": b"\r\nabc\r\n",
    "no digit": b"g\r\n",
    "a space before the size": b" 3\r\nabc\r\n",
    "a space after the size": b"3 \r\nabc\r\n",
    "a space between the size and an extension": b"3 ;a\r\nabc\r\n",
    "a tab after the size": b"3\t\r\nabc\r\n",
    "a prefix": b"0x3\r\nabc\r\n",
    "a plus": b"+3\r\nabc\r\n",
    "a minus": b"-3\r\nabc\r\n",
    "an underscore": b"1_0\r\n0123456789abcdef\r\n",
    "a comma": b"3,4\r\nabc\r\n",
    "an Arabic digit": "\u0663\r\nabc\r\n".encode(),
    "seventeen digits": b"00000000000000003\r\nabc\r\n",
    "more than 63 bits": b"8000000000000000\r\nabc",
    "sixteen times F": b"FFFFFFFFFFFFFFFF\r\nabc",
    "a bare LF after the size": b"3\nabc\r\n0\r\n\r\n",
    "a bare CR after the size": b"3\rabc\r\n0\r\n\r\n",
    "two CR after the size": b"3\r\r\nabc\r\n0\r\n\r\n",
    "a bare LF after the data": b"3\r\nabc\n0\r\n\r\n",
    "a bare CR after the data": b"3\r\nabc\r0\r\n\r\n",
    "nothing after the data": b"3\r\nabc0\r\n\r\n",
    "data beyond its size": b"3\r\nabcd\r\n0\r\n\r\n",
    "LF CR after the data": b"3\r\nabc\n\r0\r\n\r\n",
    "an extension without a name": b"3;\r\nabc\r\n",
    "an extension without a value": b"3;a=\r\nabc\r\n",
    "an extension with a space in its name": b"3;a b\r\nabc\r\n",
    "a space at the end of an extension": b"3;a \r\nabc\r\n",
    "a bare CR in an extension": b"3;a\rb\r\nabc\r\n",
    "a bare LF in an extension": b"3;a\n0\r\n\r\n",
    "a NUL in an extension": b"3;a\0\r\nabc\r\n",
    "an open quoted string": b'3;a="b\r\nabc\r\n',
    "a CR in a quoted string": b'3;a="\r"\r\nabc\r\n',
    "a byte beyond ASCII in a name": b"3;\xe4\r\nabc\r\n",
    "a bare LF at the end": b"0\r\n\n",
    "a bare CR at the end": b"0\r\n\r\r\n",
    "a NUL at the end": b"0\r\n\0\r\n",
    "a trailer without a colon": b"0\r\nabc\r\n\r\n",
    "a trailer without a name": b"0\r\n: abc\r\n\r\n",
    "a space before the colon of a trailer": b"0\r\na : b\r\n\r\n",
    "a trailer name beyond ASCII": b"0\r\n\xe4: b\r\n\r\n",
    "an obsolete fold": b"0\r\na: b\r\n c\r\n\r\n",
    "a fold before any trailer": b"0\r\n a: b\r\n\r\n",
    "a bare LF in a trailer": b"0\r\na: b\nc: d\r\n\r\n",
    "a bare CR in a trailer": b"0\r\na: b\rc\r\n\r\n",
    "a NUL in a trailer": b"0\r\na: b\0\r\n\r\n",
    "a DEL in a trailer": b"0\r\na: b\x7f\r\n\r\n",
}

TOO_LARGE = {
    "an extension": b"3;" + b"a" * LIMIT + b"\r\n",
    "an extension without end": b"3;" + b"a" * (LIMIT + 20),
    "the extensions of many chunks together": b"1;a=b\r\nx\r\n" * 60,
    "a size without end": b"0" * (LIMIT + 20),
    "a trailer": b"0\r\na:" + b"b" * LIMIT + b"\r\n",
    "a trailer without end": b"0\r\na:" + b"b" * LIMIT,
    "many trailers together": b"0\r\n" + b"a:b\r\n" * 41,
}


@pytest.mark.parametrize("name", COMPLETE)
def test_a_body_ends_at_its_end_for_any_fragmentation(name: str) -> None:
    data, body = COMPLETE[name]
    following = b"GET / HTTP/1.1\r\n"
    assert whole(data + following) == ("done", body, [], following)
    assert by_bytes(data + following) == ("done", body, [], following)
    assert whole(data[:-1])[0] == "more"


@pytest.mark.parametrize("name", REFUSED)
def test_anything_but_the_grammar_is_refused_however_it_is_cut(name: str) -> None:
    assert whole(REFUSED[name])[0] == "fault"
    assert by_bytes(REFUSED[name])[0] == "fault"


@pytest.mark.parametrize("name", TOO_LARGE)
def test_trailers_and_extensions_have_a_limit_however_they_are_cut(name: str) -> None:
    assert whole(TOO_LARGE[name])[0] == "too large"
    assert by_bytes(TOO_LARGE[name])[0] == "too large"


def test_trailers_and_extensions_fill_their_limits_to_the_byte() -> None:
    extension = b"3;" + b"a" * (LIMIT - 1) + b"\r\nabc\r\n"
    trailers = b"0\r\na:" + b"b" * (LIMIT - 4) + b"\r\n\r\n"
    assert whole(extension + trailers) == ("done", b"abc", [(b"a", b"b" * (LIMIT - 4))], b"")
    assert by_bytes(extension + trailers) == ("done", b"abc", [(b"a", b"b" * (LIMIT - 4))], b"")


def test_trailers_are_limited_in_number() -> None:
    thousand = b"a:b\r\n" * 1000
    assert decode([b"0\r\n" + thousand + b"\r\n"], trailers=1 << 20)[0] == "done"
    assert decode([b"0\r\n" + thousand + b"a:b\r\n\r\n"], trailers=1 << 20)[0] == "too large"


def test_trailers_come_in_order_and_as_they_were_sent() -> None:
    data = b"0\r\nX-Sum: \t1 2 \r\nx-sum:\r\nB: caf\xe9\r\n\r\n"
    assert whole(data)[2] == [(b"X-Sum", b"1 2"), (b"x-sum", b""), (b"B", b"caf\xe9")]


def test_a_chunk_larger_than_the_received_data_is_passed_on_without_a_copy() -> None:
    decoder = ChunkedDecoder(LIMIT, LIMIT)
    pieces: list[bytes] = []
    decoder.feed(b"fffff\r\n", pieces)
    data = b"x" * 65536
    assert decoder.feed(data, pieces) == b""
    assert pieces[0] is data


@pytest.mark.parametrize("chunk", [b"1\r\nx\r\n", b"1;a\r\nx\r\n", b"00000000001\r\nx\r\n"])
def test_one_call_decodes_a_bounded_number_of_chunks(chunk: bytes) -> None:
    decoder = ChunkedDecoder(LIMIT, 1 << 20)
    pieces: list[bytes] = []
    unused = decoder.feed(chunk * 50_000, pieces)
    assert len(pieces) <= 400
    assert len(unused) > 49_000 * len(chunk)
    assert (chunk * 50_000).endswith(unused)


@pytest.mark.parametrize("start", [b"3;", b"0\r\na:"], ids=["an extension", "a trailer"])
def test_a_line_that_comes_in_small_parts_costs_no_more_than_its_length(start: bytes) -> None:
    def cost(parts: int) -> float:
        begun = time.process_time()
        decode([start, *[b"x" * 16] * parts], trailers=1 << 30, extensions=1 << 30)
        return time.process_time() - begun

    cost(1000)
    assert cost(160_000) < 40 * cost(10_000)  # 256 times if each part were added to a copy of the line


# ---- against a model that reads the whole message at once

TOKEN = frozenset(b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")


def fragments() -> st.SearchStrategy[bytes]:
    known = [*(data for data, _ in COMPLETE.values()), *REFUSED.values(), b"\r", b"\n", b"\r\n", b"0\r\n", b"a: b\r\n"]
    return st.lists(st.sampled_from(known) | st.binary(max_size=8), max_size=6).map(b"".join)


def body_of(chunks: list[bytes]) -> bytes:
    return b"".join([b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks])


@given(st.lists(st.binary(min_size=1, max_size=300), max_size=8), st.data())
def test_an_encoded_body_is_decoded_at_any_cut(chunks: list[bytes], draw: st.DataObject) -> None:
    data = body_of(chunks) + b"0\r\na: b\r\n\r\nNEXT"
    cuts = sorted(draw.draw(st.lists(st.integers(0, len(data)), max_size=6)))
    parts = [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    assert decode(parts) == ("done", b"".join(chunks), [(b"a", b"b")], b"NEXT")


@given(fragments())
@example(b"5\r\n0\r\n\r\n5\r\r\n")
@example(b"3\r\nabc\r\n5\r")
def test_any_bytes_mean_the_same_at_once_and_byte_by_byte(data: bytes) -> None:
    assert whole(data) == by_bytes(data)


@given(fragments())
def test_any_fragmentation_has_the_meaning_of_the_whole_message(data: bytes) -> None:
    assert whole(data)[:2] == model(data)


class Stop(Exception):
    """The model cannot read further: `fault`, `too large` or `more`."""


def model(data: bytes) -> tuple[str, bytes]:
    """The end of a message, and its body, by a literal reading of RFC 9112 7.1."""
    body = bytearray()
    try:
        read_message(data, body)
    except Stop as stop:
        return str(stop), bytes(body)
    return "done", bytes(body)


def read_message(data: bytes, body: bytearray) -> None:
    extensions_left, trailers_left = LIMIT, LIMIT
    size = -1
    while size:
        line, data = read_line(data, 16 + extensions_left)
        digits, semicolon, extensions = line.partition(b";")
        expect(0 < len(digits) <= 16 and all(digit in b"0123456789abcdefABCDEF" for digit in digits))
        check_extensions(semicolon + extensions)
        extensions_left -= len(semicolon + extensions)
        expect(extensions_left >= 0, "too large")
        size = int(digits, 16)
        expect(size < 1 << 63)
        if size:
            chunk, data = data[:size], data[size:]
            body += chunk
            expect(data.startswith(b"\r\n") or b"\r\n".startswith(data))
            expect(len(data) >= 2, "more")
            data = data[2:]
    while True:
        line, data = read_line(data, trailers_left)
        if not line:
            return
        trailers_left -= len(line) + 2
        expect(trailers_left >= 0, "too large")
        name, colon, value = line.partition(b":")
        expect(bool(name) and set(name) <= TOKEN and bool(colon))
        expect(all(byte == 9 or (byte >= 32 and byte != 127) for byte in value))


def read_line(data: bytes, limit: int) -> tuple[bytes, bytes]:
    line, lf, rest = data.partition(b"\n")
    if not lf:
        raise Stop("too large" if len(line) > limit + 1 else "more")
    expect(len(line) - 1 <= limit, "too large")
    expect(line.endswith(b"\r"))
    return line[:-1], rest


def check_extensions(text: bytes) -> None:
    while text:
        expect(text[:1] == b";")
        name, text = read_token(text[1:].lstrip(b" \t"))
        expect(bool(name))
        if text.lstrip(b" \t")[:1] == b"=":
            text = text.lstrip(b" \t")[1:].lstrip(b" \t")
            if text[:1] == b'"':
                text = after_quotes(text[1:])
            else:
                value, text = read_token(text)
                expect(bool(value))
        expect(not text or text.lstrip(b" \t")[:1] == b";")
        text = text.lstrip(b" \t")


def read_token(text: bytes) -> tuple[bytes, bytes]:
    size = next((at for at, byte in enumerate(text) if byte not in TOKEN), len(text))
    return text[:size], text[size:]


def after_quotes(text: bytes) -> bytes:
    while text[:1] != b'"':
        if text[:1] == b"\\":
            text = text[1:]
        expect(bool(text) and (text[0] == 9 or (text[0] >= 32 and text[0] != 127)))
        text = text[1:]
    return text[1:]


def expect(holds: bool, outcome: str = "fault") -> None:
    if not holds:
        raise Stop(outcome)
