"""Handshakes in every form (RFC 6455 4): accepted ones, refused ones, and the request to the upstream."""

import contextlib
import json

import pytest

from tests.support.expectations import passes, refuses
from tests.support.faces import stock
from tests.support.gateways import SignIn
from tests.support.processes import Account, Gateway
from tests.support.raw import NoAnswer
from tests.support.recording import RecordingUpstream
from tests.support.waiting import eventually
from tests.support.websockets import ACCEPT, Socket, echoing, handshake, text

# ---- the definition of a handshake

PUBLIC = "/public-sockets/x"

GOOD = {
    "plain": handshake(PUBLIC),
    "words in another case": handshake(PUBLIC, upgrade="WebSocket", connection="upgrade"),
    "as Firefox asks": handshake(PUBLIC, connection="keep-alive, Upgrade"),
    "with a query": handshake(PUBLIC + "?a=1&b=%2F"),
    "with an empty body": handshake(PUBLIC, "Content-Length: 0"),
    "space around the key": handshake(PUBLIC, key=None, version=None).replace(
        b"\r\n\r\n", b"\r\nSec-WebSocket-Key: \t dGhlIHNhbXBsZSBub25jZQ== \r\nSec-WebSocket-Version:13\r\n\r\n"
    ),
}


@pytest.mark.parametrize("data", GOOD.values(), ids=GOOD)
def test_a_handshake_is_answered_with_the_response_of_the_upstream(
    gateway: Gateway, upstream: RecordingUpstream, data: bytes
) -> None:
    upstream.on(PUBLIC, echoing("X-Upstream: yes", "Set-Cookie: a=1", "Set-Cookie: b=2", "Keep-Alive: timeout=5"))
    answer = gateway.ask(data)
    assert answer.status == 101
    assert answer.value("sec-websocket-accept") == ACCEPT
    assert answer.value("upgrade") == b"websocket"
    assert (answer.value("connection") or b"").lower() == b"upgrade"
    assert answer.value("x-upstream") == b"yes"
    assert answer.values("set-cookie") == [b"a=1", b"b=2"]
    assert not answer.head.has("keep-alive")


BAD = {
    "version 8": handshake(PUBLIC, version="8"),
    "version 14": handshake(PUBLIC, version="14"),
    "version 013": handshake(PUBLIC, version="013"),
    "two versions in a line": handshake(PUBLIC, version="13, 8"),
    "two versions": handshake(PUBLIC, "Sec-WebSocket-Version: 13"),
    "no version": handshake(PUBLIC, version=None),
    "no key": handshake(PUBLIC, key=None),
    "an empty key": handshake(PUBLIC, key=""),
    "a short key": handshake(PUBLIC, key="c2hvcnQ="),
    "a long key": handshake(PUBLIC, key="dGhpcyBrZXkgaXMgZmFyIHRvbyBsb25nIGZvciBpdA=="),
    "a key that is not base64": handshake(PUBLIC, key="dGhlIHNhbXBsZSBub25jZQ*="),
    "a key in base64url": handshake(PUBLIC, key="____________________-w=="),
    "two keys": handshake(PUBLIC, "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="),
    "a body": handshake(PUBLIC, "Content-Length: 3") + b"abc",
    "a chunked body": handshake(PUBLIC, "Transfer-Encoding: chunked") + b"3\r\nabc\r\n0\r\n\r\n",
    "an empty chunked body": handshake(PUBLIC, "Transfer-Encoding: chunked") + b"0\r\n\r\n",
}


@pytest.mark.parametrize("data", BAD.values(), ids=BAD)
def test_an_invalid_handshake_is_refused_and_not_forwarded(
    gateway: Gateway, upstream: RecordingUpstream, data: bytes
) -> None:
    if stock(gateway.face, "handshakes"):
        with contextlib.suppress(NoAnswer, TimeoutError):
            assert 400 <= gateway.ask(data, timeout=0.5).status < 500
        assert upstream.requests == []
    else:
        refuses(gateway, upstream, data, 400, "bad_request")


def test_another_version_is_refused_with_the_supported_one(gateway: Gateway, upstream: RecordingUpstream) -> None:
    """RFC 6455 4.2.2."""
    answer = gateway.ask(handshake(PUBLIC, version="8"))
    assert answer.status == 400
    assert answer.value("sec-websocket-version") == (None if stock(gateway.face, "handshakes") else b"13")


PLAIN = {
    "no Upgrade": handshake("/public/x", upgrade=None),
    "no Connection": handshake("/public/x", connection=None),
    "Connection without Upgrade": handshake("/public/x", connection="keep-alive"),
    "another protocol": handshake("/public/x", upgrade="h2c", connection="Upgrade"),
    "HTTP/1.0": handshake("/public/x").replace(b" HTTP/1.1", b" HTTP/1.0"),
    "a protocol that only begins like it": handshake("/public/x", upgrade="websockets"),
}


@pytest.mark.parametrize("data", PLAIN.values(), ids=PLAIN)
def test_a_request_without_websocket_upgrade_is_a_plain_request(
    gateway: Gateway, upstream: RecordingUpstream, data: bytes
) -> None:
    """RFC 6455 4.2.1: it is an ordinary request, and the upstream gets no upgrade."""
    if stock(gateway.face, "handshakes") and b"HTTP/1.0" in data:
        # It is served, or treated as a handshake on a route without WebSocket.
        assert gateway.ask(data).status in (200, 403)
    else:
        passes(gateway, upstream, data)
    for received in upstream.requests:
        assert received.values("upgrade") == []
        assert b"upgrade" not in b",".join(received.values("connection")).lower()


def test_only_get_asks_for_a_websocket(gateway: Gateway, upstream: RecordingUpstream) -> None:
    data = handshake(PUBLIC, method="POST")
    if stock(gateway.face, "handshakes"):
        assert gateway.ask(data).status == 405
    else:
        assert passes(gateway, upstream, data).values("upgrade") == []


# ---- the policy


@pytest.mark.parametrize(
    ("target", "who", "status", "code"),
    [
        ("/sockets/x", None, 401, "token_missing"),
        ("/sockets/x", "nonsense", 401, "token_invalid"),
        ("/sockets/x", "disabled", 401, "token_invalid"),
        ("/sockets/x", "user", 101, None),
        ("/sockets-of-admins/x", None, 401, "token_missing"),
        ("/sockets-of-admins/x", "user", 403, "forbidden"),
        ("/sockets-of-admins/x", "admin", 101, None),
        ("/public-sockets/x", None, 101, None),
        ("/public-sockets/x", "nonsense", 101, None),
        ("/sockets-of-some/x", None, 101, None),
        ("/sockets-of-some/x", "nonsense", 101, None),
        ("/sockets-of-some/x", "user", 101, None),
        ("/public/x", None, 403, "websocket_not_allowed"),
        ("/api/x", None, 403, "websocket_not_allowed"),
        ("/api/x", "user", 403, "websocket_not_allowed"),
        ("/auth/me", "user", 403, "websocket_not_allowed"),
        ("/_gateway/health", None, 403, "websocket_not_allowed"),
        ("/nowhere", "user", 404, "no_route"),
        ("/sockets/../public/x", "user", 400, "bad_path"),
        ("/sockets/%2e%2e/x", "user", 400, "bad_path"),
        ("/sockets//x", "user", 400, "bad_path"),
        ("/sockets/a;b", "user", 400, "bad_path"),
        ("/sockets-to-refusing/x", None, 502, "upstream_unreachable"),
    ],
)
def test_the_same_policy_holds_for_handshakes(
    gateway: Gateway,
    upstream: RecordingUpstream,
    sign_in: SignIn,
    target: str,
    who: str | None,
    status: int,
    code: str | None,
) -> None:
    upstream.on(target, echoing())
    fields = []
    if who in ("nonsense", "disabled"):
        fields.append("Authorization: Bearer eyJhbGciOiJFUzI1NiJ9.e30.AAAA")
    elif who is not None:
        fields.append(sign_in(who).line.decode())
    answer = gateway.ask(handshake(target, *fields))
    assert answer.refused() == (status, code)
    assert len(upstream.requests) == (status == 101)
    if status == 401:
        assert (answer.value("www-authenticate") or b"").startswith(b"Bearer")


def test_a_refusal_stands_before_the_upgrade_and_looks_like_any_other(gateway: Gateway) -> None:
    answer = gateway.ask(handshake("/sockets/x"))
    assert answer.status == 401 and answer.whole
    assert answer.value("cache-control") == b"no-store"
    assert set(answer.json()) == {"type", "title", "status", "detail", "code", "request_id"}


# ---- the request to the upstream


def test_the_upstream_gets_the_handshake_and_the_identity(
    gateway: Gateway, upstream: RecordingUpstream, user: Account
) -> None:
    upstream.on("/sockets/x", echoing())
    own = ("Cookie: a=b", "Origin: https://elsewhere.example", "User-Agent: t", "X-Custom: 1", "X-Custom: 2")
    gateway.ask(handshake("/sockets/x?q=1", user.line, "X-User-Id: 1", "X_User_Roles: admin", *own))
    received = upstream.only
    assert received.line == b"GET /sockets/x?q=1 HTTP/1.1"
    assert received.values("upgrade") == [b"websocket"]
    assert received.values("connection") == [b"Upgrade"]
    assert received.values("sec-websocket-version") == [b"13"]
    assert received.seen_as("X-User-Id") == [user.id.encode()]
    assert received.seen_as("X-User-Roles") == [b"user"]
    assert received.values("authorization") == []
    assert received.values("x-forwarded-proto") == [b"http"]
    assert received.values("x-forwarded-for") == [b"127.0.0.1"]
    for field in own:
        name, _, value = field.partition(": ")
        assert value.encode() in received.values(name), field
    assert len(received.values("x-request-id")) == 1


def test_hop_by_hop_fields_are_not_forwarded(gateway: Gateway, upstream: RecordingUpstream) -> None:
    """RFC 9110 7.6.1."""
    upstream.on(PUBLIC, echoing())
    stays = ("Keep-Alive: 5", "Proxy-Authorization: Basic x", "HTTP2-Settings: AAAA", "Named: 1", "TE: trailers")
    gateway.ask(handshake(PUBLIC, *stays, connection="Upgrade, Named, keep-alive"))
    for field in stays:
        assert upstream.only.values(field.partition(":")[0]) == [], field


def test_extensions_are_negotiated_end_to_end(gateway: Gateway, upstream: RecordingUpstream) -> None:
    """`gateway serve` relays frames, so both ends negotiate with each other; under ASGI the server negotiates with the
    client, and the gateway with the upstream."""
    upstream.on(PUBLIC, echoing())
    offered = "permessage-deflate; client_max_window_bits"
    answer = gateway.ask(handshake(PUBLIC, f"Sec-WebSocket-Extensions: {offered}"))
    assert answer.status == 101
    received = upstream.only
    if gateway.face == "serve":
        assert received.values("sec-websocket-extensions") == [offered.encode()]
        assert received.values("sec-websocket-key") == [b"dGhlIHNhbXBsZSBub25jZQ=="]
        assert not answer.head.has("sec-websocket-extensions")
    else:
        assert received.values("sec-websocket-extensions") == []
        assert received.values("sec-websocket-key") != [b"dGhlIHNhbXBsZSBub25jZQ=="]
        assert (answer.value("sec-websocket-extensions") or b"").startswith(b"permessage-deflate")


def test_the_prefix_is_stripped_and_the_host_kept_as_on_any_route(
    gateway: Gateway, upstream: RecordingUpstream
) -> None:
    upstream.on(PUBLIC, echoing())
    gateway.ask(handshake(PUBLIC, host="Other.Example:81"))
    assert upstream.only.values("host") == [b"Other.Example:81"]
    assert upstream.only.values("x-forwarded-host") == [b"Other.Example:81"]


# ---- the log


def test_a_websocket_is_logged_once_when_it_is_over(gateway: Gateway, upstream: RecordingUpstream) -> None:
    upstream.on(PUBLIC + "/logged", echoing())
    with Socket(gateway, PUBLIC + "/logged", "X-Request-Id: the-websocket-of-this-test") as socket:
        socket.say(text("hello"))
        socket.frame()
    line = _line(gateway, "the-websocket-of-this-test")
    assert line["status"] == 101
    assert "/public-sockets" in str(line["route"])


def _line(gateway: Gateway, request_id: str) -> dict[str, object]:
    def found() -> list[dict[str, object]]:
        lines = [line for line in gateway.log().splitlines() if request_id in line and line.startswith("{")]
        return [json.loads(line) for line in lines]

    (line,) = eventually(found)
    return line
