"""The head filter before h11: the accepted heads, independent of network reads."""

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.proxy.httpx_engine.head_filter import HeadFilter
from gateway.proxy.interfaces import Field
from gateway.proxy.response_head import ResponseFault
from tests.proxy.engines.test_agreement import RESPONSES

KIB = 1024
Outcome = tuple[bytes | str, list[Sequence[Field]]]


def passed(*pieces: bytes, limit: int = 64 * KIB) -> Outcome:
    """The bytes passed to h11, or the reason for none; and the interim responses."""
    hints: list[Sequence[Field]] = []
    head_filter = HeadFilter(limit, lambda _, fields: hints.append(fields))
    try:
        behind = b"".join([head_filter.feed(piece) for piece in pieces])
        return (b"" if head_filter.head is None else head_filter.head.block) + behind, hints
    except ResponseFault as fault:
        return str(fault), hints


@given(response=RESPONSES, cuts=st.lists(st.integers(0, 400), max_size=8))
def test_it_does_not_matter_in_which_pieces_it_comes(response: bytes, cuts: list[int]) -> None:
    places = [0, *sorted(cut for cut in cuts if cut < len(response)), len(response)]
    whole, in_whole = passed(response)
    cut, in_pieces = passed(*(response[start:end] for start, end in pairwise(places)))
    assert type(cut) is type(whole)
    assert cut == whole or isinstance(whole, str)
    assert in_pieces == in_whole[: len(in_pieces)]


FINAL = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"
HINT = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nContent-Length: 0\r\n\r\n"
PASSED = {
    "a head": (FINAL, FINAL),
    "a head and a body": (FINAL + b"ok", FINAL + b"ok"),
    "a body with anything in it": (FINAL + b"\n\x00\r\n\r\n", FINAL + b"\n\x00\r\n\r\n"),
    "a head behind others": (b"HTTP/1.1 100 Continue\r\n\r\n" + HINT + FINAL, FINAL),
    "a head behind an empty line": (b"\r\n\r\n" + FINAL, FINAL),
    "half a head": (FINAL[:-3], b""),
    "no status line yet": (b"HT", b""),
    "half an empty line": (b"\r", b""),
    "nothing but a hint": (HINT, b""),
}


@pytest.mark.parametrize(("sent", "expected"), PASSED.values(), ids=PASSED)
def test_only_the_final_head_and_the_bytes_behind_it_reach_h11(sent: bytes, expected: bytes) -> None:
    got, hints = passed(sent)
    assert got == expected
    assert all(hint == [(b"Link", b"</a>")] for hint in hints)


STOPPED = {
    "another protocol": b"SSH",
    "a bare LF": b"HTTP/1.1 200 OK\nContent-Length: 2",
    "a bare CR": b"HTTP/1.1 200 OK\r\nX-A: 1\rX",
    "an unasked 101": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
    "an interim response with a length": b"HTTP/1.1 103 Hints\r\nContent-Length: 2\r\n\r\n",
    "an interim response in chunks": b"HTTP/1.1 100 Continue\r\nTransfer-Encoding: chunked\r\n\r\n",
}


@pytest.mark.parametrize("sent", STOPPED.values(), ids=STOPPED)
def test_bytes_that_cannot_be_a_head_are_refused_at_once(sent: bytes) -> None:
    got, hints = passed(sent)
    assert isinstance(got, str)
    assert hints == []


@pytest.mark.parametrize("size", [4 * KIB, 200 * KIB])
def test_a_head_can_be_as_large_as_the_limit(size: int) -> None:
    """200 KiB are more than httpcore would pass to h11 in pieces."""
    head = b"HTTP/1.1 200 OK\r\nX-Large: %b\r\n\r\n" % (b"x" * (size - 40))
    assert passed(head, limit=size) == (head, [])
    pieces = [head[at : at + KIB] for at in range(0, len(head), KIB)]
    assert passed(*pieces, limit=size) == (head, [])
    got, _ = passed(head.replace(b"\r\n\r\n", b"x" * 100 + b"\r\n\r\n"), limit=size)
    assert isinstance(got, str)
    got, _ = passed(head[:-2] + b"x" * 100, limit=size)
    assert isinstance(got, str)
