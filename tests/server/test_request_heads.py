"""Heads with the names of earlier heads are read by one expression; they mean the same as the first of its kind."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import Refusal
from gateway.server.protocol.request_parser import RequestHeadReader
from gateway.wire.fields import Field, FieldRules

MOST = 65536
MANY = 100  # More heads with the same names than a shape needs to become common.
USUAL = [b"Host: gateway.test", b"X-A.b: 1", b"Accept: */*", b"accept: text/plain"]
VALUE = st.binary(max_size=12).map(
    lambda value: value.translate(None, bytes(range(9)) + bytes(range(10, 32)) + b"\x7f")
)


def head_of(lines: list[bytes]) -> bytes:
    return b"GET /x HTTP/1.1\r\n" + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


def read(reader: RequestHeadReader, lines: list[bytes]) -> list[Field] | str:
    try:
        assert reader.feed(head_of(lines)) == (True, b"")
    except Refusal as refusal:
        return refusal.code
    return reader.fields


def experienced_reader() -> RequestHeadReader:
    reader = RequestHeadReader(MOST, FieldRules())
    for number in range(MANY):
        assert read(reader, [*USUAL[:2], b"Accept: %d" % number, USUAL[3]])
    return reader


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param(USUAL, id="the usual head"),
        pytest.param([USUAL[0], b"X-A.b: a: b", *USUAL[2:]], id="a colon in a value"),
        pytest.param([USUAL[0], b"X-A.b: Accept: 1", *USUAL[2:]], id="a name in a value"),
        pytest.param([USUAL[0], b"X-A.b: ", *USUAL[2:]], id="an empty value"),
        pytest.param([USUAL[0], b"X-A.b:", *USUAL[2:]], id="a value without anything before it"),
        pytest.param([USUAL[0], b"X-A.b:1", *USUAL[2:]], id="no space before a value"),
        pytest.param([USUAL[0], b"X-A.b:\t 1 \t", *USUAL[2:]], id="other white space"),
        pytest.param([USUAL[0], b"X-A.b:  1  ", *USUAL[2:]], id="more spaces"),
        pytest.param([USUAL[0], b"X-Aob: 1", *USUAL[2:]], id="another letter for the dot of a name"),
        pytest.param([USUAL[0], b"x-a.b: 1", *USUAL[2:]], id="another case of a name"),
        pytest.param([USUAL[0], b"X-A.bc: 1", *USUAL[2:]], id="a longer name"),
        pytest.param(USUAL[:3], id="a field less"),
        pytest.param([*USUAL, b"X-Last: 1"], id="a field more"),
        pytest.param([USUAL[1], USUAL[0], *USUAL[2:]], id="another order"),
        pytest.param([USUAL[0], b"X-A.b: \xe9\xff", *USUAL[2:]], id="bytes above 127"),
        pytest.param([USUAL[0], b"X-A.b : 1", *USUAL[2:]], id="a space before a colon"),
        pytest.param([USUAL[0], b"X-A.b: 1\r\n 2", *USUAL[2:]], id="a folded value"),
        pytest.param([USUAL[0], b"X-A.b: 1\n", *USUAL[2:]], id="a bare line feed"),
    ],
)
def test_a_head_is_read_alike_after_many_with_the_usual_names(lines: list[bytes]) -> None:
    assert read(experienced_reader(), lines) == read(RequestHeadReader(MOST, FieldRules()), lines)


@given(st.lists(VALUE, min_size=4, max_size=4))
def test_any_values_are_those_of_a_first_head(values: list[bytes]) -> None:
    lines = [b"%b: %b" % (line.partition(b":")[0], value) for line, value in zip(USUAL, values, strict=True)]
    assert read(experienced_reader(), lines) == read(RequestHeadReader(MOST, FieldRules()), lines)


BROWSERS_HEAD = (
    b"GET /items/7?page=2 HTTP/1.1\r\nHost: gateway.test\r\nAccept: */*\r\nConnection: keep-alive\r\nX-Id: 1\r\n\r\n"
)


def meaning(reader: RequestHeadReader, head: bytes) -> object:
    try:
        complete = reader.feed(head)
    except Refusal as refusal:
        return refusal.code
    if not complete[0]:
        return complete
    return complete, reader.method, reader.target, reader.minor, reader.keep_alive, reader.fields


def reader_after(head: bytes) -> RequestHeadReader:
    """A reader to which the names of this head are common."""
    reader = RequestHeadReader(MOST, FieldRules())
    for number in range(MANY):
        assert reader.feed(head.replace(b"X-Id: 1", b"X-Id: %d" % number)) == (True, b"")
    return reader


@pytest.mark.parametrize(
    ("replaced", "by"),
    [
        (b"GET", b"PROPFIND"),
        (b"GET", b"CONNECT"),
        (b"GET", b"get"),
        (b"GET", b"\r\nGET"),
        (b"/items/7?page=2", b"*"),
        (b"/items/7?page=2", b"//items"),
        (b"/items/7?page=2", b"http://gateway.test/items"),
        (b"/items/7?page=2", b"/items#7"),
        (b"/items/7?page=2", b"/\xe9"),
        (b"/items/7?page=2", b"/a b"),
        (b"HTTP/1.1", b"HTTP/1.0"),
        (b"HTTP/1.1", b"HTTP/2.0"),
        (b"HTTP/1.1\r", b"HTTP/1.1 \r"),
        (b"Connection: keep-alive", b"Connection: close"),
        (b"Connection: keep-alive", b"Connection: Keep-Alive"),
        (b"Connection: keep-alive", b"Connection: KEEP-ALIVE"),
        (b"Connection: keep-alive", b"Connection: keep-alive, close"),
        (b"Connection: keep-alive", b"Connection: X-Id"),
        (b"Connection: keep-alive", b"Connection: upgrade"),
        (b"Connection: keep-alive", b"Proxy-Connection: close"),
        (b"X-Id: 1", b"X-Id: 1\x00"),
        (b"X-Id: 1", b"X-Id: 1\nX-Other: 2"),
        (b"X-Id: 1", b"X-Id: \x7f"),
        (b"X-Id: 1\r\n", b"X-Id: 1\n"),
        (b"X-Id: 1\r\n\r\n", b"X-Id: 1\r\n\n"),
        (b"X-Id: 1\r\n\r\n", b"X-Id: 1\r\n"),
        (b"X-Id: 1\r\n\r\n", b"X-Id: 1\r\n\r\nGET /next HTTP/1.1\r\n"),
    ],
)
def test_a_head_has_the_same_meaning_with_and_without_a_parser(replaced: bytes, by: bytes) -> None:
    head = BROWSERS_HEAD.replace(replaced, by)
    assert head != BROWSERS_HEAD
    assert meaning(reader_after(BROWSERS_HEAD), head) == meaning(RequestHeadReader(MOST, FieldRules()), head)


@pytest.mark.parametrize(
    ("usual", "other"),
    [
        (b"Connection: close\r\nConnection: keep-alive", b"Connection: keep-alive\r\nConnection: close"),
        (b"Connection: close\r\nConnection: keep-alive", b"Connection: close\r\nConnection: keep-alive"),
        (b"Proxy-Connection: keep-alive", b"Proxy-Connection: close"),
        (b"Content-Length: 3", b"Content-Length: x"),
        (b"Content-Length: 3", b"Content-Length: +3"),
        (b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked, x"),
        (b"Connection: Upgrade\r\nUpgrade: websocket", b"Connection: keep-alive\r\nUpgrade: h2c"),
    ],
)
def test_common_names_that_only_a_parser_reads_keep_their_meaning(usual: bytes, other: bytes) -> None:
    head = b"GET /x HTTP/1.1\r\nHost: gateway.test\r\n%b\r\nX-Id: 1\r\n\r\n"
    rules = FieldRules()
    for _ in range(MANY):
        usual_reader = RequestHeadReader(MOST, rules)
        assert usual_reader.feed(head % usual) == (True, b"")
    reader = RequestHeadReader(MOST, rules)
    reader.shape = usual_reader.shape
    assert meaning(reader, head % other) == meaning(RequestHeadReader(MOST, FieldRules()), head % other)


@given(at=st.integers(0, len(BROWSERS_HEAD) - 1), byte=st.integers(0, 255))
def test_any_other_byte_has_the_meaning_that_a_parser_gives_it(at: int, byte: int) -> None:
    head = BROWSERS_HEAD[:at] + bytes([byte]) + BROWSERS_HEAD[at + 1 :]
    assert meaning(reader_after(BROWSERS_HEAD), head) == meaning(RequestHeadReader(MOST, FieldRules()), head)


def test_a_head_that_is_too_large_is_refused_with_and_without_a_parser() -> None:
    rules = FieldRules()
    reader = RequestHeadReader(len(BROWSERS_HEAD), rules)
    for number in range(MANY):
        assert reader.feed(BROWSERS_HEAD.replace(b"X-Id: 1", b"X-Id: %d" % (number % 10))) == (True, b"")
    assert meaning(reader, BROWSERS_HEAD.replace(b"X-Id: 1", b"X-Id: 12")) == "headers_too_large"


def test_a_head_in_pieces_is_read_alike_after_many_in_one() -> None:
    reader, head = experienced_reader(), head_of([b"%b, 2" % line for line in USUAL])
    for at in range(1, len(head)):
        assert reader.feed(head[:at]) == (False, b"")
        assert reader.feed(head[at:]) == (True, b"")
        assert [value for _, value in reader.fields] == [b"gateway.test, 2", b"1, 2", b"*/*, 2", b"text/plain, 2"]


def test_the_names_that_all_connections_share_outlive_a_forgotten_head() -> None:
    reader = experienced_reader()
    reader.forget()
    assert read(reader, USUAL) == read(RequestHeadReader(MOST, FieldRules()), USUAL)
