"""Chunked request bodies: their end, the limits of their framing, and the next request."""

import json

import pytest

from tests.support.engines import lacks
from tests.support.expectations import passes
from tests.support.faces import stock
from tests.support.processes import Gateway
from tests.support.recording import RecordingUpstream
from tests.support.scripts import HeldConnection, early, response
from tests.support.waiting import eventually
from tests.support.wording import chunked, request

CHUNKED = "Transfer-Encoding: chunked"
LIMIT = 16 * 1024  # the standard configuration's max_header_size


def upload(path: str = "/public/x", *fields: str | bytes) -> bytes:
    """The head of a chunked request."""
    return request(path, method="POST", fields=[CHUNKED, *fields])


# ---- the request after the body


@pytest.mark.parametrize(
    "body",
    [
        chunked(b"abc"),
        chunked(b"abc", trailers=["X-Sum: 1"]),
        b"3;a=b\r\nabc\r\n0;c\r\n\r\n",
        chunked(b"abc" * 40_000),
        b"1\r\nx\r\n" * 20_000 + b"0\r\n\r\n",
    ],
    ids=["a chunk", "trailers", "extensions", "a large chunk", "many small chunks"],
)
def test_the_request_behind_a_chunked_body_in_one_packet_is_answered(
    gateway: Gateway, upstream: RecordingUpstream, body: bytes
) -> None:
    with gateway.caller() as caller:
        caller.send(upload("/public/1") + body + upload("/public/2") + chunked(b"second") + request("/public/3"))
        assert [caller.receive("POST").status for _ in range(3)] == [200, 200, 200]
        assert caller.is_open()
    assert [one.target for one in upstream.requests] == [b"/public/1", b"/public/2", b"/public/3"]
    assert len(upstream.requests[0].body) in (3, 120_000, 20_000)
    assert bytes(upstream.requests[1].body) == b"second"


def test_the_request_behind_a_chunked_body_waits_for_its_turn(gateway: Gateway, upstream: RecordingUpstream) -> None:
    held = HeldConnection(after=response(200, [], b"slow"))
    upstream.on("/public/slow", held)
    with gateway.caller() as caller:
        caller.send(upload("/public/slow") + chunked(b"abc") + request("/nowhere"))
        held.reached()
        held.release()
        assert caller.receive("POST").body == b"slow"
        assert caller.receive().status == 404


def test_the_request_behind_a_refused_chunked_body_is_answered(gateway: Gateway, upstream: RecordingUpstream) -> None:
    with gateway.caller() as caller:
        caller.send(upload("/nowhere") + chunked(b"abc") + upload("/api/x") + chunked(b"abc") + request("/public/x"))
        first = caller.receive("POST")
        assert first.refused() == (404, "no_route")
        if first.values("connection"):
            return  # the server closes, and announces it
        assert caller.receive("POST").refused() == (401, "token_missing")
        assert caller.receive().body == b"upstream"
        assert caller.is_open()


def test_a_refused_chunked_body_that_is_still_on_its_way_ends_the_connection(gateway: Gateway) -> None:
    with gateway.caller() as caller:
        caller.send(upload("/nowhere") + b"3\r\nabc\r\n")
        got = caller.receive("POST")
        assert (got.refused(), got.value("connection")) == ((404, "no_route"), b"close")


def test_the_request_behind_a_chunked_body_for_an_own_endpoint_is_answered(gateway: Gateway) -> None:
    login = json.dumps({"email": "nobody@example.com", "password": "wrong password"}).encode()
    with gateway.caller() as caller:
        caller.send(upload("/auth/login", "Content-Type: application/json") + chunked(login[:9], login[9:]))
        caller.send(request("/_gateway/health"))
        assert caller.receive("POST").refused() == (401, "invalid_credentials")
        assert caller.receive().status == 200


# ---- limits


def test_trailers_and_extensions_within_the_limit_are_read_over(gateway: Gateway, upstream: RecordingUpstream) -> None:
    trailers = [f"X-{number}: {'x' * 100}" for number in range(100)]
    received = passes(
        gateway, upstream, upload() + b"3;a=" + b"x" * 15_000 + b"\r\nabc\r\n" + chunked(trailers=trailers)
    )
    assert bytes(received.body) == b"abc"
    assert received.trailers == ()
    assert received.values("x-1") == []


TOO_LARGE = {
    "a trailer": b"0\r\nX-Large: " + b"x" * LIMIT + b"\r\n\r\n",
    "a trailer without end": b"0\r\nX-Large: " + b"x" * LIMIT * 2,
    "many trailers": b"0\r\n" + b"a:b\r\n" * 5000,
    "an extension": b"3;a=" + b"x" * LIMIT + b"\r\nabc\r\n0\r\n\r\n",
    "an extension without end": b"3;a=" + b"x" * LIMIT * 2,
    "many extensions": b"1;aaaaaaaa\r\nx\r\n" * 2000,
}


@pytest.mark.parametrize("body", TOO_LARGE.values(), ids=TOO_LARGE)
@pytest.mark.parametrize("path", ["/public/x", "/auth/login"])
def test_trailers_and_extensions_beyond_the_limit_are_refused(
    gateway: Gateway, upstream: RecordingUpstream, path: str, body: bytes
) -> None:
    if stock(gateway.face, "framing limits"):
        return
    with gateway.caller() as caller:
        caller.send(upload(path, "Content-Type: application/json") + body)
        got = caller.receive("POST")
        assert (got.refused(), got.value("connection")) == ((431, "headers_too_large"), b"close")
        caller.ended()
    eventually(lambda: all(one.link.ended for one in upstream.requests))
    assert not any(one.whole for one in upstream.requests)


MALFORMED = {
    "a size that is none": b"zz\r\nabc\r\n",
    "a prefixed size": b"0x3\r\nabc\r\n0\r\n\r\n",
    "a signed size": b"+3\r\nabc\r\n0\r\n\r\n",
    "an underscore in the size": b"1_0\r\n0123456789abcdef\r\n0\r\n\r\n",
    "a space after the size": b"3 \r\nabc\r\n0\r\n\r\n",
    "a size beyond 64 bits": b"10000000000000003\r\nabc\r\n0\r\n\r\n",
    "a bare LF after the size": b"3\nabc\r\n0\r\n\r\n",
    "a bare CR in an extension": b"3;a\rb\r\nabc\r\n0\r\n\r\n",
    "a bare LF in an extension": b"3;a\nabc\r\n0\r\n\r\n",
    "a NUL in an extension": b"3;a=\0\r\nabc\r\n0\r\n\r\n",
    "no CRLF after the data": b"3\r\nabc0\r\n\r\n",
    "data beyond the size": b"3\r\nabcdef\r\n0\r\n\r\n",
    "a fold in a trailer": b"3\r\nabc\r\n0\r\nA: b\r\n c\r\n\r\n",
    "a trailer without a colon": b"3\r\nabc\r\n0\r\nabc\r\n\r\n",
    "a trailer that is a request": b"3\r\nabc\r\n0\r\nGET /admin/x HTTP/1.1\r\nHost: a\r\n\r\n",
    "a bare LF at the end": b"3\r\nabc\r\n0\r\n\n",
}


@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_chunked_body_is_refused_and_nothing_behind_it_is_read(
    gateway: Gateway, upstream: RecordingUpstream, body: bytes
) -> None:
    with gateway.caller() as caller:
        caller.send(upload() + body + request("/public/behind"))
        got = caller.receive("POST")
        assert got.status == 400
        if not stock(gateway.face, "parser errors"):
            assert got.code == "bad_request"
        assert caller.ended()[1] == b""
    eventually(lambda: all(one.link.ended for one in upstream.requests))
    assert not any(one.whole for one in upstream.requests)
    assert {one.target for one in upstream.requests} <= {b"/public/x"}


def test_a_malformed_chunk_after_the_answer_has_begun_aborts_it(gateway: Gateway, upstream: RecordingUpstream) -> None:
    if lacks(gateway.engine, "early responses") or stock(gateway.face, "parser errors"):
        return
    upstream.on("/public/x", early(response(200, [CHUNKED], None) + b"5\r\nhello\r\n", then="keep"))
    with gateway.caller() as caller:
        caller.send(upload() + b"3\r\nabc\r\n")
        head = caller.receive_head()
        caller.send(b"zz\r\n")
        assert not caller.receive_body(head, lambda _: None)[1]


# ---- fairness


def test_a_body_of_many_small_chunks_leaves_turns_to_others(gateway: Gateway, upstream: RecordingUpstream) -> None:
    """Each read of it contains tens of thousands of chunks."""
    small = b"1\r\nx\r\n" * 40_000
    with gateway.caller(timeout=20) as caller:
        caller.send(upload("/uploads/x"))
        caller.send_until_refused([small] * 4 + [b"0\r\n\r\n"])
        assert gateway.get("/_gateway/health").status == 200
        assert caller.receive("POST").status == 200
    assert len(next(one.body for one in upstream.requests if one.target == b"/uploads/x")) == 160_000
