"""No upstream sees the session cookie, and none can set it."""

import pytest

from tests.support.browsers import COOKIE, OWN_PAGE, SETTINGS, Browser
from tests.support.expectations import passes
from tests.support.gateways import Gateways
from tests.support.processes import Engine, Face, Gateway
from tests.support.recording import RecordingUpstream, Script
from tests.support.scripts import answer, raw
from tests.support.waiting import eventually
from tests.support.websockets import Socket, echoing, handshake
from tests.support.wording import request

pytestmark = pytest.mark.every_variant

IDENTITY = {"headers": {"email_verified": "X-Verified", "acr": "X-Acr", "session": "X-Session"}}


@pytest.fixture
def gateway(gateways: Gateways, face: Face, engine: Engine) -> Gateway:
    server, sessions = SETTINGS["server"], SETTINGS["sessions"]
    return gateways.gateway("sessions", face, engine, server=server, sessions=sessions, identity=IDENTITY)


@pytest.fixture
def browser(gateway: Gateway) -> Browser:
    signed_in = Browser(gateway)
    signed_in.sign_in(gateway.newcomer().email)
    return signed_in


PLACES = (
    "/api/x",
    "/public/x",
    "/public-forwarded/x",
    "/forwarded/x",
    "/optional/x",
    "/stripped/x",
    "/public-sockets/x",
)


def test_oauth2_proxy_644_no_upstream_gets_the_session_cookie(
    gateway: Gateway, browser: Browser, upstream: RecordingUpstream
) -> None:
    own = f"{COOKIE}={browser.cookie}"
    for path in PLACES:
        for sent, arrived in (
            (f"Cookie: {own}", []),
            (f"Cookie: a=1; {own}; b=2", [b"a=1; b=2"]),
            (f"cookie: {own}; a=1\r\nCookie: b=2; {own.lower()}", [b"a=1", b"b=2"]),
            (f"Cookie: {COOKIE}-flow=x; theme=dark", [b"theme=dark"]),
            (f'Cookie: a="{COOKIE}"; =; b', [f'a="{COOKIE}"; =; b'.encode()]),
            (f"Cookie: caf\xe9=\xff;; {own};;b=2", [b"caf\xe9=\xff;;;b=2"]),
            (f"Connection: Cookie\r\nCookie: {own}; a=1", []),
        ):
            signed_in = (browser.line,) if own not in sent and not path.startswith("/public") else ()
            received = passes(gateway, upstream, request(path, fields=[sent.encode("latin-1"), *signed_in]))
            assert received.values("cookie") == arrived, (path, sent)
            assert browser.cookie is not None and browser.cookie.encode() not in received.head


def test_a_handshake_takes_no_session_cookie_to_the_upstream(
    gateway: Gateway, browser: Browser, upstream: RecordingUpstream
) -> None:
    upstream.on("/sockets/x", echoing())
    with Socket(gateway, "/sockets/x", f"{browser.line}; a=1", OWN_PAGE):
        assert upstream.only.values("cookie") == [b"a=1"]


SET = [
    "Set-Cookie: a=1; Path=/",
    f"Set-Cookie: {COOKIE}=planted; Path=/; Secure; HttpOnly",
    f"set-cookie: {COOKIE.lower()}=planted",
    f"Set-Cookie: {COOKIE}-flow=planted",
    f"Set-Cookie: ={COOKIE}=planted",
    f"Set-Cookie: {COOKIE}",
    "X-Between: 1",
    "Set-Cookie: session=mine; Path=/app",
    f'Set-Cookie: "{COOKIE}"=other',
    'Clear-Site-Data: "cookies"',
    'clear-site-data: "cache","Cookies" , "storage"',
    'Clear-Site-Data: "*"',
    'Clear-Site-Data: "cache",  "storage"',
]
CLEARED = [
    b'"cache", "storage"',
    b'"cache", "clientHints", "executionContexts", "prefetchCache", "prerenderCache", "storage"',
    b'"cache",  "storage"',
]
DROPPED = 8
LEFT = [b"a=1; Path=/", b"session=mine; Path=/app", f'"{COOKIE}"=other'.encode()]


def dropped(gateway: Gateway) -> int:
    page = gateway.get("/_gateway/metrics").body.decode()
    (line,) = [
        each
        for each in page.splitlines()
        if each.startswith("gateway_upstream_cookies_dropped_total{") and '"web"' in each
    ]
    return int(float(line.rpartition(" ")[2]))


@pytest.mark.parametrize("status", [200, 302, 404, 304])
def test_an_upstream_neither_plants_nor_ends_a_session(
    gateway: Gateway, upstream: RecordingUpstream, status: int
) -> None:
    upstream.on("/public/x", answer(status, SET, b"" if status == 304 else b"body"))
    before = dropped(gateway)
    for _ in range(3):  # the same head again comes from a cache
        got = gateway.get("/public/x")
        assert got.status == status
        assert got.values("set-cookie") == LEFT
        assert got.values("clear-site-data") == CLEARED
        assert got.values("x-between") == [b"1"]
    eventually(lambda: dropped(gateway) == before + 3 * DROPPED)


def test_interim_responses_and_trailers_set_no_own_cookie(gateway: Gateway, upstream: RecordingUpstream) -> None:
    lines = "\r\n".join(SET)
    hints = f"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n{lines}\r\n\r\n"
    final = f"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n{lines}\r\n\r\n"
    upstream.on("/public/x", raw((hints + final).encode()))
    got = gateway.get("/public/x")
    assert (got.status, got.body, got.values("set-cookie")) == (200, b"ok", [])
    for head in got.interim:
        assert (head.values("set-cookie"), head.values("clear-site-data")) == (LEFT, CLEARED)
    names = {name.lower() for name, _ in got.trailers}
    assert names.isdisjoint({b"set-cookie", b"clear-site-data"})


@pytest.mark.parametrize("answers", [echoing(*SET), answer(403, SET, b"no")], ids=["accepted", "refused"])
def test_a_handshake_sets_no_own_cookie(
    gateway: Gateway, browser: Browser, upstream: RecordingUpstream, answers: Script
) -> None:
    upstream.on("/sockets/x", answers)
    with gateway.caller() as caller:
        head = caller.send(handshake("/sockets/x", browser.line, OWN_PAGE)).receive_head()
        assert head.status in (101, 403)
        assert (head.values("set-cookie"), head.values("clear-site-data")) == (LEFT, CLEARED)


def test_without_sessions_every_cookie_passes(
    gateways: Gateways, face: Face, engine: Engine, upstream: RecordingUpstream
) -> None:
    gateway = gateways.gateway("standard", face, engine)
    upstream.on("/public/x", answer(200, SET, b"body"))
    got = gateway.get("/public/x", f"Cookie: a=1; {COOKIE}=v")
    assert (len(got.values("set-cookie")), len(got.values("clear-site-data"))) == (8, 4)
    assert upstream.only.values("cookie") == [f"a=1; {COOKIE}=v".encode()]


def test_upstreams_learn_of_the_session_on_request_and_never_from_a_client(
    gateway: Gateway, browser: Browser, upstream: RecordingUpstream
) -> None:
    forged = ["X-Session: mine", "X_Acr: phr", "x-verified: true"]
    received = passes(gateway, upstream, request("/api/x", fields=[browser.line, *forged]))
    assert received.seen_as("x-session") == [browser.session()["id"].encode()]
    assert (received.seen_as("x-acr"), received.seen_as("x-verified")) == ([b"aal1"], [b"false"])
    anonymous = passes(gateway, upstream, request("/public/x", fields=forged))
    for name in ("x-session", "x-acr", "x-verified"):
        assert anonymous.seen_as(name) == []


def test_sign_ins_are_counted_by_outcome(gateway: Gateway, browser: Browser) -> None:
    def counted(outcome: str) -> float:
        line = f'gateway_sign_ins_total{{method="password",outcome="{outcome}"}} '
        page = gateway.get("/_gateway/metrics").body.decode()
        return sum(float(each.removeprefix(line)) for each in page.splitlines() if each.startswith(line))

    email = browser.get("/auth/me").json()["email"]
    right, wrong = counted("ok"), counted("invalid_credentials")
    browser.sign_in(email)
    gateway.post("/auth/login", {"email": email, "password": "a wrong password"})
    assert (counted("ok"), counted("invalid_credentials")) == (right + 1, wrong + 1)


def test_sign_ins_of_browsers_are_counted(gateway: Gateway, browser: Browser) -> None:
    def begun() -> str:
        page = gateway.get("/_gateway/metrics").body.decode()
        return next(line for line in page.splitlines() if line.startswith("gateway_sessions_begun_total{"))

    before = begun()
    browser.sign_in(browser.get("/auth/me").json()["email"])
    assert begun() != before and 'kind="browser"' in before
