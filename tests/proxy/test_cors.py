"""CORS with both servers: preflights, responses, refusals, and WebSocket handshakes."""

import json

import pytest

from gateway.wire.websocket import accept_of
from tests.support.expectations import passes
from tests.support.faces import stock
from tests.support.gateways import Gateways
from tests.support.processes import Engine, Face, Gateway
from tests.support.raw import Answer, Head
from tests.support.recording import Exchange, RecordingUpstream
from tests.support.scripts import answer, raw, response
from tests.support.waiting import eventually
from tests.support.wording import request

APP = "https://app.example.com"
EVIL = "https://evil.example"
CORS: dict[str, object] = {"origins": [APP, "http://localhost:3000"], "headers": ["Content-Type"], "max_age": "5m"}
ROUTES: list[dict[str, object]] = [
    {"path": "/pages/open/**", "auth": "none", "cors": CORS},
    {"path": "/pages/mine/{id}", "methods": ["GET", "POST"], "cors": CORS | {"credentials": True}},
    {"path": "/pages/admin", "roles": ["admin"], "cors": CORS},
    {"path": "/pages/both", "auth": "none", "methods": ["GET"], "cors": CORS},
    {"path": "/pages/both", "auth": "none", "methods": ["PUT"], "name": "put-both"},
    {"path": "/pages/everyone/**", "auth": "none", "cors": {"origins": ["*"]}},
    {
        "path": "/pages/limited",
        "auth": "none",
        "cors": CORS,
        "rate_limit": {"requests": 2, "per": "1h", "by": "address"},
    },
    {"path": "/pages/small", "auth": "none", "cors": CORS, "max_body": "1KiB"},
    {"path": "/pages/dead", "auth": "none", "cors": CORS, "upstream": "refusing"},
    {"path": "/pages/socket", "auth": "none", "cors": CORS, "websocket": True},
    {"path": "/pages/no-socket", "auth": "none", "cors": CORS},
]


@pytest.fixture
def gateway(gateways: Gateways, face: Face, engine: Engine) -> Gateway:
    return gateways.gateway("pages", face, engine, routes=[{"upstream": "web"} | route for route in ROUTES])


def preflight(path: str, method: str, *fields: str, origin: str = APP) -> bytes:
    lines = [f"Origin: {origin}", f"Access-Control-Request-Method: {method}", *fields]
    return request(path, method="OPTIONS", fields=lines)


def cors_of(found: Answer | Head) -> dict[str, str]:
    """The Access-Control fields by the rest of their names, without the exposed names. Each must be unique."""
    values: dict[str, str] = {}
    for name, value in found.fields:
        key = name.decode().lower()
        if key.startswith("access-control-") and key != "access-control-expose-headers":
            assert key not in values
            values[key.removeprefix("access-control-")] = value.decode()
    return values


def vary_of(found: Answer) -> list[str]:
    return [member.strip() for value in found.values("vary") for member in value.decode().split(",")]


READABLE = {"allow-origin": APP}
USUAL = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
ALLOWED = [
    # path, method, fields of the response
    ("/pages/open/x", "GET", {"allow-methods": USUAL, "allow-headers": "Content-Type"}),
    ("/pages/open/x", "PURGE", {"allow-methods": USUAL + ", PURGE", "allow-headers": "Content-Type"}),
    ("/pages/both", "GET", {"allow-methods": "GET, HEAD", "allow-headers": "Content-Type"}),
    ("/pages/admin", "DELETE", {"allow-methods": USUAL, "allow-headers": "Content-Type, Authorization"}),
    (
        "/pages/mine/7",
        "POST",
        {
            "allow-methods": "GET, HEAD, POST",
            "allow-headers": "Content-Type, Authorization",
            "allow-credentials": "true",
        },
    ),
    ("/pages/dead", "GET", {"allow-methods": USUAL, "allow-headers": "Content-Type"}),
]


@pytest.mark.parametrize(("path", "method", "expected"), ALLOWED)
def test_a_preflight_is_answered_without_a_credential_and_without_the_upstream(
    gateway: Gateway, upstream: RecordingUpstream, path: str, method: str, expected: dict[str, str]
) -> None:
    found = gateway.ask(preflight(path, method, "Access-Control-Request-Headers: authorization,content-type"))
    assert (found.status, found.body) == (204, b"")
    assert cors_of(found) == READABLE | {"max-age": "300"} | expected
    assert vary_of(found) == ["Origin"]
    assert found.value("cache-control") == b"no-store"
    assert found.value("content-length") is None
    assert upstream.requests == []


REFUSED = [
    (preflight("/pages/open/x", "GET", origin=EVIL), 403, "origin_not_allowed"),
    (preflight("/pages/open/x", "GET", origin="null"), 403, "origin_not_allowed"),
    (preflight("/pages/admin", "GET", origin=f"{APP}.evil.example"), 403, "origin_not_allowed"),
    (preflight("/pages/open/x", "GET", f"Origin: {APP}"), 403, "origin_not_allowed"),
    # the requested method has no route, or a route without cors
    (preflight("/pages/nowhere", "GET"), 404, "no_route"),
    (preflight("/pages/mine/7", "DELETE"), 405, "method_not_allowed"),
    (preflight("/pages/both", "PUT"), 405, "method_not_allowed"),
    (preflight("/pages/../x", "GET"), 400, "bad_path"),
    (preflight("/auth/login", "POST"), 405, "method_not_allowed"),
]


@pytest.mark.parametrize(("data", "status", "code"), REFUSED)
def test_a_preflight_of_a_stranger_or_for_nothing_is_refused(
    gateway: Gateway, upstream: RecordingUpstream, data: bytes, status: int, code: str
) -> None:
    found = gateway.ask(data)
    assert found.refused() == (status, code)
    assert cors_of(found) == {}
    assert upstream.requests == []


@pytest.mark.parametrize(
    "data",
    [
        request("/pages/open/x", method="OPTIONS"),
        request("/pages/open/x", method="OPTIONS", fields=[f"Origin: {APP}"]),
        request("/pages/open/x", method="OPTIONS", fields=["Access-Control-Request-Method: GET"]),
        preflight("/public/x", "GET"),
    ],
    ids=["bare", "no method asked for", "no origin", "route without cors"],
)
def test_options_that_is_no_preflight_of_ours_goes_on(
    gateway: Gateway, upstream: RecordingUpstream, data: bytes
) -> None:
    assert passes(gateway, upstream, data).method == b"OPTIONS"


def test_a_connection_goes_on_after_a_preflight_with_or_without_a_body(
    gateway: Gateway, upstream: RecordingUpstream
) -> None:
    question = preflight("/pages/open/x", "PUT")
    with gateway.caller() as caller:
        for _ in range(2):
            assert caller.send(question).receive("OPTIONS").status == 204
        assert caller.send(question + request("/pages/open/x")).receive("OPTIONS").status == 204
        assert caller.receive().status == 200
    found = gateway.ask(preflight("/pages/open/x", "PUT", "Content-Length: 5") + b"12345")
    assert (found.status, cors_of(found)["allow-origin"]) == (204, APP)
    found = gateway.ask(preflight("/pages/open/x", "PUT", "Transfer-Encoding: chunked") + b"3\r\nabc\r\n0\r\n\r\n")
    assert (found.status, cors_of(found)["allow-origin"]) == (204, APP)


def test_a_preflight_is_logged_under_the_route_that_was_asked_about(gateway: Gateway) -> None:
    gateway.ask(preflight("/pages/mine/logged", "POST"))

    def logged() -> list[dict[str, object]]:
        lines = [json.loads(line) for line in gateway.log().splitlines() if line.startswith("{")]
        return [line for line in lines if line["path"] == "/pages/mine/logged"]

    (line,) = eventually(logged)
    assert (line["method"], line["status"], line["route"]) == ("OPTIONS", 204, "GET,POST /pages/mine/{id}")


# ---- responses

UPSTREAMS_OWN = [
    "Access-Control-Allow-Origin: *",
    "access-control-allow-credentials: true",
    "Access-Control-Allow-Methods: DELETE",
    "Access-Control-Expose-Headers: X-Total",
    "Vary: Accept",
    "X-Total: 7",
]


def test_only_the_gateway_decides_on_reading_of_a_response(gateway: Gateway, upstream: RecordingUpstream) -> None:
    upstream.on("/pages/open/x", answer(200, UPSTREAMS_OWN, b"body"))
    found = gateway.get("/pages/open/x", f"Origin: {APP}")
    assert (found.status, found.body) == (200, b"body")
    assert cors_of(found) == READABLE
    assert vary_of(found) == ["Accept", "Origin"]
    assert b"X-Total" in found.values("access-control-expose-headers")
    assert any(b"Retry-After" in value for value in found.values("access-control-expose-headers"))
    assert found.value("x-total") == b"7"
    assert upstream.only.values("origin") == [APP.encode()]


@pytest.mark.parametrize("fields", [[f"Origin: {EVIL}"], [f"Origin: {APP}", f"Origin: {APP}"], ["Origin: null"], []])
def test_a_request_of_a_stranger_passes_but_no_page_may_read_the_answer(
    gateway: Gateway, upstream: RecordingUpstream, fields: list[str]
) -> None:
    """Clients other than browsers need no permission, and browsers send no preflight for simple requests."""
    upstream.on("/pages/open/x", answer(200, UPSTREAMS_OWN, b"body"))
    found = gateway.get("/pages/open/x", *fields)
    assert (found.status, found.body) == (200, b"body")
    assert cors_of(found) == {}
    assert vary_of(found) == ["Accept", "Origin"]


def test_where_all_may_read_the_answer_is_the_same_for_all(gateway: Gateway, upstream: RecordingUpstream) -> None:
    for fields in ([f"Origin: {EVIL}"], [f"Origin: {APP}"], ["Origin: null"], []):
        found = gateway.get("/pages/everyone/x", *fields)
        assert (found.status, cors_of(found), vary_of(found)) == (200, {"allow-origin": "*"}, [])
    found = gateway.ask(preflight("/pages/everyone/x", "PUT", origin="null"))
    assert (found.status, cors_of(found)["allow-origin"]) == (204, "*")


SHAPES = [
    ("HEAD", response(200, UPSTREAMS_OWN, None)[:-2] + b"Content-Length: 9\r\n\r\n", 200),
    ("GET", response(204, UPSTREAMS_OWN, None), 204),
    ("GET", response(304, UPSTREAMS_OWN, None), 304),
    ("GET", response(500, UPSTREAMS_OWN, b"oh"), 500),
    ("GET", response(200, [*UPSTREAMS_OWN, "Transfer-Encoding: chunked"], None) + b"2\r\nok\r\n0\r\n\r\n", 200),
]


@pytest.mark.parametrize(("method", "data", "status"), SHAPES, ids=["HEAD", "204", "304", "500", "chunked"])
def test_every_kind_of_response_carries_it(
    gateway: Gateway, upstream: RecordingUpstream, method: str, data: bytes, status: int
) -> None:
    upstream.on("/pages/open/x", raw(data))
    found = gateway.ask(request("/pages/open/x", method=method, fields=[f"Origin: {APP}"]))
    assert (found.status, cors_of(found), vary_of(found)) == (status, READABLE, ["Accept", "Origin"])


def test_on_other_routes_an_upstream_speaks_for_itself(gateway: Gateway, upstream: RecordingUpstream) -> None:
    upstream.on("/public/x", answer(200, UPSTREAMS_OWN, b"body"))
    found = gateway.get("/public/x", f"Origin: {EVIL}")
    assert cors_of(found) == {"allow-origin": "*", "allow-credentials": "true", "allow-methods": "DELETE"}
    assert vary_of(found) == ["Accept"]


# ---- refusals, which allowed pages can read too


def test_a_page_may_read_why_it_was_refused(gateway: Gateway, upstream: RecordingUpstream) -> None:
    origin = f"Origin: {APP}"
    with_cookies = READABLE | {"allow-credentials": "true"}
    user = gateway.newcomer()
    large = ["Content-Length: 5000", origin]
    cases = [
        (request("/pages/mine/7", fields=[origin]), (401, "token_missing"), with_cookies),
        (request("/pages/mine/7", fields=[origin, "Authorization: Bearer x"]), (401, "token_invalid"), with_cookies),
        (request("/pages/admin", fields=[origin, user.line]), (403, "forbidden"), READABLE),
        (request("/pages/small", method="POST", fields=large), (413, "body_too_large"), READABLE),
        (request("/pages/dead", fields=[origin]), (502, "upstream_unreachable"), READABLE),
    ]
    for data, refused, expected in cases:
        found = gateway.ask(data)
        assert (found.refused(), cors_of(found), vary_of(found)) == (refused, expected, ["Origin"])
        stranger = gateway.ask(data.replace(APP.encode(), EVIL.encode()))
        assert (stranger.refused(), cors_of(stranger), vary_of(stranger)) == (refused, {}, ["Origin"])


def test_a_page_may_read_that_it_asked_too_often_and_preflights_are_not_counted(
    gateway: Gateway, upstream: RecordingUpstream
) -> None:
    for _ in range(10):
        assert gateway.ask(preflight("/pages/limited", "GET")).status == 204
    answers = [gateway.get("/pages/limited", f"Origin: {APP}") for _ in range(3)]
    assert [found.refused() for found in answers] == [(200, None), (200, None), (429, "rate_limited")]
    for found in answers:
        assert (cors_of(found), vary_of(found)) == (READABLE, ["Origin"])
        assert found.value("ratelimit-policy") == b'"address";q=2;w=3600'


def test_a_refusal_on_another_route_carries_nothing(gateway: Gateway, upstream: RecordingUpstream) -> None:
    for path, status in (("/api/x", 401), ("/nowhere", 404), ("/auth/me", 401), ("/pages/%00", 400)):
        found = gateway.get(path, f"Origin: {APP}")
        assert (found.status, cors_of(found), vary_of(found)) == (status, {}, [])


# ---- WebSocket

HANDSHAKE = [
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
]


@pytest.mark.parametrize(
    "origins", [[EVIL], ["null"], [APP, APP], [f"{APP}.evil.example"]], ids=["listed nowhere", "null", "twice", "tail"]
)
def test_a_handshake_of_a_page_that_is_not_listed_is_refused(
    gateway: Gateway, upstream: RecordingUpstream, origins: list[str]
) -> None:
    """Browsers let any page open a WebSocket with its visitor's cookies, without a preflight."""
    found = gateway.get("/pages/socket", *HANDSHAKE, *(f"Origin: {origin}" for origin in origins))
    # A stock server refuses two fields in a handshake itself ("parser errors").
    own_answer = len(origins) > 1 and stock(gateway.face, "parser errors")
    assert found.refused() == ((400, None) if own_answer else (403, "origin_not_allowed"))
    assert cors_of(found) == {}
    assert upstream.requests == []


@pytest.mark.parametrize("fields", [[], [f"Origin: {APP}"]], ids=["no page", "listed"])
def test_other_handshakes_reach_the_upstream(gateway: Gateway, upstream: RecordingUpstream, fields: list[str]) -> None:
    upstream.on("/pages/socket", answer(418))
    gateway.get("/pages/socket", *HANDSHAKE, *fields)
    assert upstream.only.values("origin") == [line.removeprefix("Origin: ").encode() for line in fields]


def test_where_no_websocket_is_served_the_origin_makes_no_difference(
    gateway: Gateway, upstream: RecordingUpstream
) -> None:
    for origin in (APP, EVIL):
        found = gateway.get("/pages/no-socket", *HANDSHAKE, f"Origin: {origin}")
        assert found.refused() == (403, "websocket_not_allowed")


async def switch(exchange: Exchange) -> None:
    """Accept the handshake, with CORS fields of the upstream's own."""
    (key,) = exchange.request.values("sec-websocket-key")
    lines: list[str | bytes] = ["Connection: Upgrade", "Upgrade: websocket", b"Sec-WebSocket-Accept: " + accept_of(key)]
    await exchange.send(response(101, [*lines, "Access-Control-Allow-Origin: *"], None))
    await exchange.left()


def test_the_response_to_a_handshake_carries_the_common_fields(gateway: Gateway, upstream: RecordingUpstream) -> None:
    upstream.on("/pages/socket", switch)
    found = gateway.get("/pages/socket", *HANDSHAKE, f"Origin: {APP}")
    assert (found.status, cors_of(found)) == (101, READABLE)
