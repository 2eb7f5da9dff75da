"""The parser of response heads: accepted and refused heads, independence of network reads, bounds, and cost."""

import tracemalloc
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.proxy.response_head import NotHttp, ResponseFault, ResponseHead, ResponseHeadReader
from tests.support.waiting import cpu_within

KIB = 1024
FINAL = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"

# The parsed heads as (status, reason, fields), the bytes after the last one, and the fault that ended parsing.
Read = tuple[list[tuple[int, bytes, list[tuple[bytes, bytes]]]], bytes, str]


def read(*pieces: bytes, limit: int = 64 * KIB) -> Read:
    reader = ResponseHeadReader(limit)
    heads: list[tuple[int, bytes, list[tuple[bytes, bytes]]]] = []
    final, rest = False, b""
    try:
        for piece in pieces:
            data = piece
            while not final and data and (head := reader.read(data)) is not None:
                heads.append((head.status, head.reason, list(head.fields)))
                final, data = head.status >= 200, reader.rest
            rest += data if final else b""
    except ResponseFault as fault:
        return heads, b"", type(fault).__name__
    return heads, rest, ""


def head_of(sent: bytes) -> ResponseHead:
    head = ResponseHeadReader(64 * KIB).read(sent)
    assert head is not None
    return head


@given(
    data=st.sampled_from(
        [
            FINAL + b"ok",
            b"\r\n\r\n" + FINAL,
            b"HTTP/1.1 103 Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 100 \r\n\r\n" + FINAL + b"HTTP/1.1 200 OK\r\n\r\n",
            b"\nHTTP/1.1 200 OK\r\n\r\n",
            b"\r\rHTTP/1.1 200 OK\r\n\r\n",
            b"HTTP/1.1 200 OK\nX: y\n\n",
            b"HTTP/1.1 200 OK\r\nX: a\rb\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n",
            b"RTSP/1.0 200 OK\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n" + b"a:b\r\n" * 300 + b"\r\n",
        ]
    ),
    cuts=st.lists(st.integers(0, 1600), max_size=12),
)
def test_the_cuts_of_the_network_do_not_matter(data: bytes, cuts: list[int]) -> None:
    places = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
    heads, rest, fault = read(*(data[start:end] for start, end in pairwise(places)), limit=1024)
    whole, whole_rest, whole_fault = read(data, limit=1024)
    assert (heads, rest) == (whole, whole_rest)
    assert bool(fault) == bool(whole_fault)


NOT_HTTP = [
    b"RTSP/1.0 200 OK\r\n\r\n",
    b"ICE/1.0 200 OK\r\n\r\n",
    b"ICY 200 OK\r\n\r\n",
    b"SSH-2.0-OpenSSH_9.2\r\n",
    b"HTTP/2.0 200 OK\r\n\r\n",
    b"http/1.1 200 OK\r\n\r\n",
    b"\nHTTP/1.1 200 OK\r\n\r\n",
    b"\rHTTP/1.1 200 OK\r\n\r\n",
    b"\r\n\nHTTP/1.1 200 OK\r\n\r\n",
    b"\x00",
    b"x",
]
MALFORMED = [
    b"HTTP/1.2 200 OK\r\n\r\n",
    b"HTTP/1.10 200 OK\r\n\r\n",
    b"HTTP/1.1 099 OK\r\n\r\n",
    b"HTTP/1.1 600 OK\r\n\r\n",
    b"HTTP/1.1 1000 OK\r\n\r\n",
    b"HTTP/1.1 20 OK\r\n\r\n",
    b"HTTP/1.1200 OK\r\n\r\n",
    b"HTTP/1.1  200 OK\r\n\r\n",
    b"HTTP/1.1\t200 OK\r\n\r\n",
    b"HTTP/1.1 200OK\r\n\r\n",
    b"HTTP/1.1 200\tOK\r\n\r\n",
    b"HTTP/1.1 2\xb2\xb2 OK\r\n\r\n",
]


@pytest.mark.parametrize("sent", NOT_HTTP)
def test_another_protocol_is_distinguished_from_bad_http(sent: bytes) -> None:
    """A target that speaks another protocol fails every request. A malformed head can belong to one resource."""
    with pytest.raises(NotHttp):
        ResponseHeadReader(64 * KIB).read(sent)


@pytest.mark.parametrize("sent", MALFORMED)
def test_a_malformed_status_line_is_refused(sent: bytes) -> None:
    with pytest.raises(ResponseFault) as raised:
        ResponseHeadReader(64 * KIB).read(sent)
    assert not isinstance(raised.value, NotHttp)


FIELDS = {
    b"X-A:1": [(b"X-A", b"1")],
    b"X-A: \t 1 2 \t ": [(b"X-A", b"1 2")],
    b"X-A:": [(b"X-A", b"")],
    b"X-A: \xe9\xff": [(b"X-A", b"\xe9\xff")],
    b"x-a: 1\r\nX-A: 2": [(b"x-a", b"1"), (b"X-A", b"2")],
    b"Connection: X-A\r\nX-A: 1\r\nX-B: 2": [(b"X-B", b"2")],
    b"Keep-Alive: timeout=5\r\nUpgrade: h2c\r\nX-B: 2": [(b"X-B", b"2")],
    b"Connection: Content-Length\r\nContent-Length: 7": [(b"Content-Length", b"7")],
}


@pytest.mark.parametrize(("lines", "fields"), FIELDS.items())
def test_fields_are_read_alike_the_first_and_the_second_time(lines: bytes, fields: list[tuple[bytes, bytes]]) -> None:
    for _ in range(2):
        assert read(b"HTTP/1.1 200 OK\r\n" + lines + b"\r\n\r\n") == ([(200, b"OK", fields)], b"", "")


NOT_LINES = [
    b"X-A: 1\r\n ",
    b"X-A: 1\r\n \r\nX-B: 2",
    b"X-A: 1\r\n\t2",
    b"X-A: \r\n X-B: 2",
    b" X-A: 1",
    b"X-A : 1",
    b": 1",
    b"X-A",
    b"X-A: 1\r\nX-B\r\nX-C: 2",
    b"X-A: 1\x0b",
    b"X-A: \x0c1",
    b"X-A: 1\x00",
    b"X-A: 1\x7f",
    b"X-A: 1\r",
    b"X-A:\n1",
    b"X\xe9: 1",
]


@pytest.mark.parametrize("lines", NOT_LINES)
def test_a_line_that_is_not_a_field_line_is_refused(lines: bytes) -> None:
    assert read(b"HTTP/1.1 200 OK\r\n" + lines + b"\r\n\r\n")[2] == "ResponseFault"
    assert read(b"HTTP/1.1 200 OK\r\nX-First: 1\r\n" + lines + b"\r\nX-Last: 1\r\n\r\n")[2] == "ResponseFault"


KEPT_ALIVE = {
    b"HTTP/1.1 200 OK\r\n": True,
    b"HTTP/1.1 200 OK\r\nConnection: keep-alive\r\n": True,
    b"HTTP/1.1 200 OK\r\nConnection: close\r\n": False,
    b"HTTP/1.1 200 OK\r\nConnection: x, CLOSE\r\n": False,
    b"HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nConnection: close\r\n": False,
    b"HTTP/1.0 200 OK\r\n": False,
    b"HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\n": True,
    b"HTTP/1.0 200 OK\r\nConnection: keep-alive, close\r\n": False,
}


@pytest.mark.parametrize(("lines", "expected"), KEPT_ALIVE.items())
def test_the_connection_persists_by_rfc_9112(lines: bytes, expected: bool) -> None:
    assert head_of(lines + b"\r\n").keeps_alive is expected


CONTENT = {
    (204, b""): (False, False, []),
    (204, b"Content-Length: 0"): (False, False, []),
    (204, b"Content-Length: 5"): (False, True, []),
    (204, b"Transfer-Encoding: chunked"): (False, True, []),
    (205, b""): (False, True, []),
    (205, b"Content-Length: 0"): (False, False, []),
    (205, b"Content-Length: 5"): (False, True, []),
    (304, b""): (False, False, []),
    (304, b"Content-Length: 0"): (False, False, [(b"Content-Length", b"0")]),
    (304, b"Content-Length: 5"): (False, True, [(b"Content-Length", b"5")]),
    (304, b"Transfer-Encoding: chunked"): (False, True, []),
    (200, b"Content-Length: 5"): (True, True, [(b"Content-Length", b"5")]),
}


@pytest.mark.parametrize(("case", "expected"), CONTENT.items())
def test_a_status_without_content_overrides_the_framing(
    case: tuple[int, bytes], expected: tuple[bool, bool, list[tuple[bytes, bytes]]]
) -> None:
    status, line = case
    head = head_of(b"HTTP/1.1 %d What\r\n%b\r\n\r\n" % (status, line) if line else b"HTTP/1.1 %d What\r\n\r\n" % status)
    assert (head.has_content, head.announces_content, head.fields) == expected


# ---- bounds


def test_a_head_has_at_most_the_limit() -> None:
    line = b"HTTP/1.1 200 OK\r\nX: "
    for size, fits in ((1024, True), (1025, False)):
        head = line + b"x" * (size - len(line) - 4) + b"\r\n\r\n"
        assert len(head) == size
        for pieces in ([head], [head[at : at + 7] for at in range(0, size, 7)]):
            assert (read(*pieces, limit=1024)[2] == "") is fits


ENDLESS = {
    "interim responses": b"HTTP/1.1 102 Processing\r\n\r\n",
    "empty interim responses": b"HTTP/1.1 199 \r\n\r\n",
    "100 Continue": b"HTTP/1.1 100 Continue\r\n\r\n",
    "empty lines": b"\r\n",
    "empty lines between interim responses": b"\r\n\r\nHTTP/1.1 102 P\r\n\r\n",
}


@pytest.mark.parametrize("sent", ENDLESS.values(), ids=ENDLESS)
def test_bytes_before_a_head_are_bounded(sent: bytes) -> None:
    with cpu_within(0.1):
        heads, _, fault = read(sent * (256 * KIB // len(sent)))
    assert fault == "ResponseFault"
    assert len(heads) <= 100


def test_interim_responses_have_the_limit_together() -> None:
    hint = b"HTTP/1.1 103 Hints\r\nLink: </" + b"a" * 900 + b">\r\n\r\n"
    assert read(hint + FINAL, limit=1024)[2] == ""
    assert read(hint * 2 + FINAL, limit=1024)[2] == "ResponseFault"


SLOW = {
    "a head of many fields": b"HTTP/1.1 200 OK\r\n" + b"a:b\r\n" * 12_000 + b"\r\n",
    "a head of many new fields": b"HTTP/1.1 200 OK\r\n" + b"".join(b"x%d:\r\n" % n for n in range(8000)) + b"\r\n",
    "options of Connection": b"HTTP/1.1 200 OK\r\n" + b"Connection: x\r\n" * 4000 + b"\r\n",
    "more options of Connection": b"HTTP/1.1 200 OK\r\n" + b"Connection: close, x\r\n" * 3000 + b"\r\n",
    "a list of options": b"HTTP/1.1 200 OK\r\nConnection: " + b"x," * 30_000 + b"\r\n\r\n",
    "Upgrade lines": b"HTTP/1.1 200 OK\r\n" + b"Upgrade: x\r\n" * 5000 + b"\r\n",
    "white space": b"HTTP/1.1 200 OK\r\nX: " + b" \t" * 30_000 + b"x\r\n\r\n",
    "white space at the end": b"HTTP/1.1 200 OK\r\nX: x" + b" \t" * 30_000 + b"\r\n\r\n",
    "carriage returns": b"HTTP/1.1 200 OK\r\nX: x" + b"\r" * 60_000,
}


@pytest.mark.parametrize("sent", SLOW.values(), ids=SLOW)
def test_the_largest_heads_are_read_in_no_time(sent: bytes) -> None:
    with cpu_within(0.1):
        read(sent)


@pytest.mark.parametrize("size", [1, 100])
def test_a_head_in_small_pieces_costs_linear_time(size: int) -> None:
    head = b"HTTP/1.1 200 OK\r\nX: " + b"x" * 60_000
    with cpu_within(0.5):
        read(*(head[at : at + size] for at in range(0, len(head), size)))


def test_lines_that_never_come_again_cost_no_memory() -> None:
    def unlike(number: int, size: int) -> bytes:
        name = b"x%d-" % number + b"x" * size
        return b"HTTP/1.1 200 %d\r\n%b: %d\r\n%b: y\r\n\r\n" % (number, name, number, name)

    for number in range(1500):
        head_of(unlike(number, 20))
    tracemalloc.start()
    try:
        for number in range(1500):
            head_of(unlike(number, 20 if number % 2 else 30_000))
        grown, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert grown < 1024 * KIB


@pytest.mark.parametrize("line", [b"Connection: x", b"Upgrade: x", b"Transfer-Encoding: chunked", b"X: y", b"Date: x"])
def test_a_large_limit_does_not_make_repeated_lines_costly(line: bytes) -> None:
    with cpu_within(0.5):
        read(b"HTTP/1.1 200 OK\r\n" + (line + b"\r\n") * 100_000 + b"\r\n", limit=8 * KIB * KIB)
