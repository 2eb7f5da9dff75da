"""WebSocket from browsers: a token among the subprotocols, and the origin of a page."""

from collections.abc import Callable

import pytest

from tests.support.expectations import refuses
from tests.support.faces import stock
from tests.support.processes import Account, Gateway
from tests.support.recording import RecordingUpstream
from tests.support.websockets import Socket, bearing, echoing, handshake, text
from tests.support.wording import as_bytes

PUBLIC = "/public-sockets/x"

# ---- the token of a browser

Offer = Callable[[str], list[str]]


def _lines(*values: str) -> Offer:
    return lambda token: [f"Sec-WebSocket-Protocol: {value.replace('TOKEN', token)}" for value in values]


@pytest.mark.parametrize(
    ("offer", "seen", "answered"),
    [
        (_lines("bearer, TOKEN"), None, b"bearer"),
        (_lines("bearer,TOKEN"), None, b"bearer"),
        (_lines("bearer, TOKEN, chat, superchat"), b"chat, superchat", b"bearer"),
        (_lines("chat, bearer, TOKEN"), b"chat", b"bearer"),
        (_lines("chat, bearer, TOKEN, superchat"), b"chat, superchat", b"bearer"),
        (_lines("bearer", "TOKEN"), None, b"bearer"),
        (_lines("bearer", "TOKEN, chat"), b"chat", b"bearer"),
        (_lines("chat", "bearer, TOKEN"), b"chat", b"bearer"),
        (_lines("chat", "bearer", "TOKEN", "superchat"), b"chat, superchat", b"bearer"),
        (_lines("Bearer, TOKEN"), None, b"Bearer"),
        (_lines(" bearer \t,\t TOKEN "), None, b"bearer"),
        (_lines("bearer, bearer, TOKEN"), None, b"bearer"),
    ],
)
def test_a_browser_presents_its_token_as_a_subprotocol(
    gateway: Gateway,
    upstream: RecordingUpstream,
    user: Account,
    offer: Offer,
    seen: bytes | None,
    answered: bytes,
) -> None:
    """Neither is forwarded, and `bearer` is chosen if the upstream chooses no protocol: browsers would fail
    otherwise."""
    upstream.on("/sockets/x", echoing())
    answer = gateway.ask(handshake("/sockets/x", *offer(user.token)))
    assert answer.status == 101
    assert answer.values("sec-websocket-protocol") == [answered]
    assert upstream.only.values("sec-websocket-protocol") == ([] if seen is None else [seen])
    assert upstream.only.seen_as("X-User-Id") == [user.id.encode()]


def test_the_upstream_chooses_the_protocol(gateway: Gateway, upstream: RecordingUpstream, user: Account) -> None:
    upstream.on("/sockets/x", echoing("Sec-WebSocket-Protocol: superchat"))
    answer = gateway.ask(handshake("/sockets/x", bearing(user.token, "chat", "superchat")))
    assert answer.values("sec-websocket-protocol") == [b"superchat"]


def test_without_an_offered_bearer_no_subprotocol_is_chosen(
    gateway: Gateway, upstream: RecordingUpstream, user: Account
) -> None:
    upstream.on("/sockets/x", echoing())
    for offered in ([], ["Sec-WebSocket-Protocol: chat"]):
        answer = gateway.ask(handshake("/sockets/x", user.line, *offered))
        assert (answer.status, answer.values("sec-websocket-protocol")) == (101, [])


@pytest.mark.parametrize(
    ("offer", "code"),
    [
        (_lines("TOKEN"), "token_missing"),
        (_lines("TOKEN, bearer"), "token_missing"),
        (_lines("bearer"), "token_missing"),
        (_lines("chat, TOKEN"), "token_missing"),
        (_lines("bearer, TOKEN, bearer, TOKEN"), "token_invalid"),
        (_lines("bearer, TOKEN", "bearer, TOKEN"), "token_invalid"),
        (_lines("bearer, chat, TOKEN"), "token_invalid"),
        (_lines("bearer, TOKENx"), "token_invalid"),
        (_lines("bearer, x"), "token_invalid"),
    ],
)
def test_no_other_form_of_it_is_accepted(
    gateway: Gateway, upstream: RecordingUpstream, user: Account, offer: Offer, code: str
) -> None:
    refuses(gateway, upstream, handshake("/sockets/x", *offer(user.token)), 401, code)


@pytest.mark.parametrize(
    ("target", "field"),
    [
        ("/sockets/x?access_token=TOKEN", None),
        ("/sockets/x?token=TOKEN", None),
        ("/sockets/x", "Cookie: token=TOKEN; access_token=TOKEN; Authorization=Bearer TOKEN"),
        ("/sockets/x", "Sec-WebSocket-Extensions: bearer; token=TOKEN"),
        ("/sockets/x", "X-Authorization: Bearer TOKEN"),
        ("/sockets/x", "Proxy-Authorization: Bearer TOKEN"),
    ],
)
def test_a_token_in_any_other_place_is_none(
    gateway: Gateway, upstream: RecordingUpstream, user: Account, target: str, field: str | None
) -> None:
    fields = [] if field is None else [field.replace("TOKEN", user.token)]
    data = handshake(target.replace("TOKEN", user.token), *fields)
    refuses(gateway, upstream, data, 401, "token_missing")


def test_a_subprotocol_signs_in_to_websockets_only(
    gateway: Gateway, upstream: RecordingUpstream, user: Account
) -> None:
    data = handshake("/api/x", bearing(user.token), upgrade=None)
    refuses(gateway, upstream, data, 401, "token_missing")


def test_authorization_counts_where_both_are_given(
    gateway: Gateway, upstream: RecordingUpstream, user: Account, admin: Account
) -> None:
    upstream.on("/sockets/x", echoing())
    assert gateway.ask(handshake("/sockets/x", user.line, bearing(admin.token))).status == 101
    assert upstream.only.seen_as("X-User-Id") == [user.id.encode()]
    assert upstream.only.values("sec-websocket-protocol") == []
    refuses(
        gateway,
        upstream,
        handshake("/sockets/x", "Authorization: Bearer x", bearing(admin.token)),
        401,
        "token_invalid",
    )


def test_an_optional_route_answers_bearer_too(gateway: Gateway, upstream: RecordingUpstream) -> None:
    for line in ("bearer, nonsense", "bearer"):
        upstream.requests.clear()
        upstream.on("/sockets-of-some/x", echoing())
        answer = gateway.ask(handshake("/sockets-of-some/x", f"Sec-WebSocket-Protocol: {line}"))
        assert (answer.status, answer.values("sec-websocket-protocol")) == (101, [b"bearer"])
        assert upstream.only.values("sec-websocket-protocol") == []
        assert upstream.only.seen_as("X-User-Id") == []


def test_the_token_reaches_neither_the_upstream_nor_the_log(
    gateway: Gateway, upstream: RecordingUpstream, admin: Account
) -> None:
    upstream.on("/sockets/log", echoing())
    with Socket(gateway, "/sockets/log?secret=in-the-query", bearing(admin.token)) as socket:
        socket.say(text("hello"))
        assert socket.frame().payload == b"hello"
    parts = admin.token.split(".")
    for part in parts:
        assert as_bytes(part) not in upstream.only.head
    assert parts[2] not in gateway.log()


# ---- pages of other origins


@pytest.mark.parametrize(
    ("origins", "passes_"),
    [
        ((), True),
        (("https://app.example.com",), True),
        (("http://localhost:5173",), True),
        (("https://elsewhere.example.com",), False),
        (("http://app.example.com",), False),
        (("https://app.example.com:8443",), False),
        (("https://app.example.com.evil.example",), False),
        (("https://evil.example/https://app.example.com",), False),
        (("https://app.example.com/",), False),
        (("null",), False),
        (("",), False),
        (("https://app.example.com https://evil.example",), False),
        (("https://app.example.com", "https://evil.example"), False),
        (("https://evil.example", "https://app.example.com"), False),
    ],
)
def test_a_page_needs_a_listed_origin_where_the_route_lists_origins(
    gateway: Gateway, upstream: RecordingUpstream, origins: tuple[str, ...], passes_: bool
) -> None:
    """Browsers send cookies with any handshake, without a preflight: Origin is the only protection."""
    upstream.on("/sockets-of-pages/x", echoing())
    data = handshake("/sockets-of-pages/x", *(f"Origin: {origin}" for origin in origins))
    if passes_:
        assert gateway.ask(data).status == 101
    elif len(origins) > 1 and stock(gateway.face, "handshakes"):
        assert gateway.ask(data).status == 400
        assert upstream.requests == []
    else:
        refuses(gateway, upstream, data, 403, "origin_not_allowed")


def test_any_origin_may_come_where_none_are_listed(gateway: Gateway, upstream: RecordingUpstream) -> None:
    upstream.on(PUBLIC, echoing())
    assert gateway.ask(handshake(PUBLIC, "Origin: https://evil.example")).status == 101
