"""Both engines read every response in the same way.

They share the head parser and the chunk decoder. In one of them httpcore and h11 follow, so a difference shows a
response that a library reads in another way.
"""

import asyncio
from collections.abc import Iterator
from itertools import chain

import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from tests.proxy.conformance.responses import BROKEN, INVALID, Broken, Invalid, named
from tests.proxy.engines.recorder import ENGINES, Telling, tellings
from tests.proxy.test_connections import POISONED
from tests.support.processes import Engine
from tests.support.recording import RecordingUpstream
from tests.support.scale import examples
from tests.support.scripts import raw
from tests.support.waiting import until
from tests.support.wording import chunked

STATUS_LINES = [
    b"HTTP/1.1 200 OK",
    b"HTTP/1.1 204 No Content",
    b"HTTP/1.1 304 Not Modified",
    b"HTTP/1.0 200 OK",
    b"HTTP/1.1 200",
    b"HTTP/1.1 200 ",
    b"HTTP/1.1 200  two spaces",
    b"HTTP/1.1 200 a\ttab",
    b"HTTP/1.1 200 Latin \xe9",
    b"HTTP/1.1 200 a control \x01",
    b"HTTP/1.1 201 delete \x7f",
    b"HTTP/1.1  200 OK",
    b"HTTP/1.1 200\tOK",
    b" HTTP/1.1 200 OK",
    b"\r\nHTTP/1.1 200 OK",
    b"HTTP/1.1 5 short",
    b"HTTP/1.1 2a0 odd",
    b"HTTP/1.1 101 Switching Protocols",
    b"HTTP/1.2 200 OK",
    b"HTTP/01.1 200 OK",
    b"HTTP/3.0 200 OK",
    b"ICY 200 OK",
]
FRAMINGS = [
    b"Content-Length: 2",
    b"Content-Length: 0",
    b"Content-Length: 2 ",
    b"Content-Length:2",
    b"content-length: 02",
    b"Content-Length: 2, 2",
    b"Content-Length: 5",
    b"Content-Length:",
    b"Content-Length: 2;",
    b"Transfer-Encoding: chunked",
    b"Transfer-Encoding: Chunked",
    b"Transfer-Encoding:chunked ",
    b"Transfer-Encoding: identity",
    b"Transfer-Encoding: chunked;a=b",
    b"Transfer-Encoding: ,chunked",
    b"Transfer-Encoding: chunked,",
    b"Transfer-Encoding:",
]
FIELDS = [
    b"X-A: 1",
    b"x-a: 2",
    b"X-A:",
    b"X-A: \t a b \t",
    b"X A: 1",
    b"X-A : 1",
    b": 1",
    b"X-A",
    b" a fold",
    b"\ta fold",
    b"X-A: a\x00b",
    b"X-A: a\x01b",
    b"X-A: a\x0bb",
    b"X-A: a\x0cb",
    b"X-A: a\x7fb",
    b"X-A: a\rb",
    b"X-A: a\nX-B: b",
    b"X-A: \xff\x80",
    b"X\x80A: b",
    b"X(A): 1",
    b'X"A: 1',
    b"X@A: 1",
    b"",
    b"\r",
    b"Connection: X-A",
    b"Connection: content-length",
    b"Connection: upgrade",
    b"Keep-Alive: 5",
    b"Proxy-Connection: keep-alive",
    b"Upgrade: h2c",
    b"Set-Cookie: a=b",
    b"Trailer: X-T",
    b"Content-Type: text/event-stream",
    b"Content-Encoding: gzip",
]
# Only on the final head: on an interim response it stops llhttp, which is the safe behaviour.
CLOSING = [b"Connection: close", b"Connection: X-A, Close"]
BODIES = [
    b"",
    b"ok",
    b"okok",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    chunked(),
    chunked(b"ok"),
    chunked(b"o", b"k"),
    chunked(b"ok", trailers=["X-T: 1"]),
    chunked(b"ok", trailers=["Content-Length: 3"]),
    chunked(b"ok", trailers=["no trailer"]),
    chunked(b"ok", trailers=["X-T : 1"]),
    chunked(b"ok", trailers=["X-T: a\x00"]),
    b"02\r\nok\r\n00\r\n\r\n",
    b"2;a=b\r\nok\r\n0\r\n\r\n",
    b'2;a="b c"\r\nok\r\n0;d\r\n\r\n',
    b"2 \r\nok\r\n0\r\n\r\n",
    b"2\nok\n0\n\n",
    b"2\r\nok0\r\n\r\n",
    b"2\r\nokok\r\n0\r\n\r\n",
    b"2\r\nok\r\n",
    b"2\r\nok\r\n0\r\n",
    b"\r\n2\r\nok\r\n0\r\n\r\n",
    b"0x2\r\nok\r\n0\r\n\r\n",
    b"+2\r\nok\r\n0\r\n\r\n",
    b"-2\r\nok\r\n0\r\n\r\n",
    b"ffffffffffffffffffff\r\nok",
]


@pytest.fixture(scope="module")
def upstream() -> Iterator[RecordingUpstream]:
    started = RecordingUpstream()
    yield started
    started.stop()


def heard(engine: Engine, upstream: RecordingUpstream, method: str) -> Telling:
    (found,) = uvloop.run(tellings(engine, upstream.url, [method]))
    return found


def agree(upstream: RecordingUpstream, method: str, sent: bytes, then: str = "fin") -> Telling:
    upstream.forget()
    upstream.on("/x", raw(sent, then=then))  # type: ignore[arg-type]
    native, httpx = (heard(engine, upstream, method) for engine in ENGINES)
    assert native == httpx
    return native


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("case", INVALID, ids=named)
def test_they_refuse_the_same(upstream: RecordingUpstream, method: str, case: Invalid) -> None:
    assert agree(upstream, method, case.sent).end == "upstream_invalid"


@pytest.mark.parametrize("case", BROKEN, ids=named)
def test_they_break_off_at_the_same(upstream: RecordingUpstream, case: Broken) -> None:
    assert agree(upstream, "GET", case.sent, case.then).end in ("abort", "upstream_unreachable")


@pytest.mark.parametrize(("method", "sent"), POISONED.values(), ids=POISONED)
def test_they_stop_where_the_response_does(upstream: RecordingUpstream, method: str, sent: bytes) -> None:
    assert b"EVIL" not in agree(upstream, method, sent).body


def heads(status_lines: list[bytes], *lines: list[bytes]) -> st.SearchStrategy[bytes]:
    fields = st.one_of([st.lists(st.sampled_from(kind), max_size=2) for kind in lines])
    return st.builds(
        lambda first, several: b"\r\n".join([first, *chain.from_iterable(several), b"", b""]),
        st.sampled_from(status_lines),
        st.lists(fields, max_size=2),
    )


INTERIM = heads([b"HTTP/1.1 %d Interim" % status for status in (100, 102, 103, 103, 199)], FIELDS, FRAMINGS)
USUAL = st.one_of([st.just(STATUS_LINES[:1]), st.just(STATUS_LINES)])
FINAL = USUAL.flatmap(lambda first: heads(first, FIELDS, FRAMINGS, CLOSING))
RESPONSES = st.builds(
    lambda interim, final, body: b"".join([*interim, final, body]),
    st.lists(INTERIM, max_size=2),
    FINAL,
    st.sampled_from(BODIES),
)


@examples(250)
@given(method=st.sampled_from(["GET", "GET", "POST", "HEAD"]), sent=RESPONSES)
def test_they_agree_on_any_request(upstream: RecordingUpstream, method: str, sent: bytes) -> None:
    agree(upstream, method, sent)


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
EXTENSIONS = [b"2;\r\nok\r\n0\r\n\r\n", b"2;a\x01\r\nok\r\n0\r\n\r\n", b'2;a="b\r\nok\r\n0\r\n\r\n']


@pytest.mark.parametrize("body", EXTENSIONS)
def test_they_break_off_at_a_malformed_chunk_extension(upstream: RecordingUpstream, body: bytes) -> None:
    """h11 alone skips the rest of a chunk size line."""
    assert agree(upstream, "GET", CHUNKED + body).end == "abort"


async def test_an_engine_leaves_nothing_running(upstream: RecordingUpstream) -> None:
    """The tests above do not show it, because `uvloop.run` cancels remaining tasks."""
    upstream.on("/x", raw(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"))
    for engine in ENGINES:
        assert [one.end for one in await tellings(engine, upstream.url, ["GET"] * 5)] == ["end"] * 5
        await until(lambda: asyncio.all_tasks() == {asyncio.current_task()})
