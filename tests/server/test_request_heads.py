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
