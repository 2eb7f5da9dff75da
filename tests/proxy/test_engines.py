"""Behaviour that is the same for both engines, in addition to all other cases of this folder."""

import pytest

from tests.support.engines import HTTPX
from tests.support.processes import PROJECT, Account, Gateway
from tests.support.recording import RecordingUpstream
from tests.support.scripts import answer, raw, response
from tests.support.waiting import eventually
from tests.support.websockets import ACCEPT, bearing, echoing, encode, handshake, text
from tests.support.wording import chunked, request

pytestmark = pytest.mark.every_variant


def test_a_websocket_goes_by_one_relay(gateway: Gateway, upstream: RecordingUpstream, user: Account) -> None:
    upstream.on("/sockets/x", echoing())
    with gateway.caller() as caller:
        got = caller.send(handshake("/sockets/x", bearing(user.token))).receive()
        assert (got.status, got.value("sec-websocket-accept")) == (101, ACCEPT)
        caller.send(encode(text("hello"), masked=True))
        eventually(lambda: caller.socket.recv(65536) == encode(text("hello")))
    assert upstream.only.values("x-user-id") == [user.id.encode()]


def test_nothing_of_one_caller_is_in_the_request_of_the_next(gateway: Gateway, upstream: RecordingUpstream) -> None:
    """GHSA-7vwr-g6pm-9hc8: a shared client stores cookies, and sends them with other clients' requests."""
    upstream.on("/public/x", answer(200, ["Set-Cookie: session=of-the-first; Path=/"]))
    assert gateway.get("/public/x", "Cookie: a=b", "X-Secret: 1").values("set-cookie")
    assert gateway.get("/public/x").status == 200
    assert upstream.requests[1].values("cookie") == []
    assert upstream.requests[1].values("x-secret") == []


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_the_callers_to_follow(gateway: Gateway, upstream: RecordingUpstream, status: int) -> None:
    upstream.on("/public/x", answer(status, [f"Location: {upstream.url}/public/elsewhere"], b"there"))
    got = gateway.get("/public/x")
    assert (got.status, got.body) == (status, b"there")
    assert [one.target for one in upstream.requests] == [b"/public/x"]


def test_an_interim_response_has_no_length(gateway: Gateway, upstream: RecordingUpstream) -> None:
    """RFC 9110 8.6."""
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nContent-Length: 0\r\n\r\n"
    upstream.on("/public/x", raw(hints + response(200, [], b"ok")))
    got = gateway.get("/public/x")
    assert got.body == b"ok"
    assert not any(head.has("content-length") for head in got.interim)


@pytest.mark.parametrize(
    ("extension", "good"), [(b"a=b", True), (b'a="b c";d', True), (b"", False), (b'a="', False), (b"\x01", False)]
)
def test_chunk_extensions_of_the_upstream_end_here(
    gateway: Gateway, upstream: RecordingUpstream, extension: bytes, good: bool
) -> None:
    """RFC 9112 7.1.1: extensions belong to one connection; a malformed one makes the chunk invalid."""
    body = b"2;%b\r\nok\r\n0\r\n\r\n" % extension
    upstream.on("/public/x", raw(response(200, ["Transfer-Encoding: chunked"], None) + body))
    with gateway.caller() as caller:
        head = caller.send(request("/public/x")).receive_head()
        assert head.status == 200
        pieces: list[bytes] = []
        framing, whole, _, _ = caller.receive_body(head, pieces.append)
        assert framing == "chunked"
    assert whole is good
    assert not whole or b"".join(pieces) == b"ok"


def test_differences_of_an_engine_are_documented() -> None:
    page = (PROJECT / "docs" / "engines.md").read_text()
    for difference in HTTPX:
        assert f"| {difference} |" in page


def test_trailers_that_are_lost_do_not_lose_the_body(gateway: Gateway, upstream: RecordingUpstream) -> None:
    head = response(200, ["Transfer-Encoding: chunked", "Trailer: X-T"], None)
    upstream.on("/public/x", raw(head + chunked(b"abc", trailers=["X-T: 1"])))
    with gateway.caller() as caller:
        for _ in range(3):
            got = caller.send(request("/public/x")).receive()
            assert (got.whole, got.body) == (True, b"abc")
