"""/_gateway/verify: trusted peers, the original request, and the responses."""

import json
import random
from collections.abc import Iterable

import pytest

from tests.advisories.test_paths import ALWAYS, PIECES, STRICT
from tests.support.gateways import Gateways, SignIn
from tests.support.processes import Account, Face, Gateway
from tests.support.raw import Answer
from tests.support.recording import RecordingUpstream
from tests.support.token_factory import claims_of
from tests.support.waiting import eventually
from tests.support.wording import as_bytes, request

VERIFY = "/_gateway/verify"
IDENTITY = ("X-User-Id", "X-User-Email", "X-User-Roles")


@pytest.fixture
def gateway(trusting: Gateway) -> Gateway:
    """The gateway of these tests trusts the front proxy: this machine."""
    return trusting


def question(
    target: str | bytes,
    *,
    method: str = "GET",
    fields: Iterable[str | bytes] = (),
    host: str = "gateway.test",
    by: str = "GET",
    dialect: str = "Forwarded",
) -> bytes:
    """The verify request that a front proxy sends for a request."""
    names = {
        "Forwarded": ("X-Forwarded-Method", "X-Forwarded-Uri"),
        "Original": ("X-Original-Method", "X-Original-URI"),
    }
    method_name, target_name = names[dialect]
    about = [f"{method_name}: {method}".encode(), target_name.encode() + b": " + as_bytes(target)]
    return request(VERIFY, method=by, fields=[*about, *fields], host=host)


def same(verified: Answer, proxied: Answer) -> bool:
    """Whether the verdict equals the proxy's decision: the same refusal, or allowed by both."""
    if proxied.code is not None or proxied.status >= 400:
        return verified.refused() == proxied.refused()
    return verified.status == proxied.status and verified.code is None


REQUESTS = [
    ("GET", "/public/x"),
    ("GET", "/api/x"),
    ("GET", "/api/x?path=/public"),
    ("POST", "/api/x"),
    ("GET", "/admin/x"),
    ("DELETE", "/admin/x"),
    ("GET", "/optional/x"),
    ("GET", "/nowhere"),
    ("GET", "/methods/x"),
    ("DELETE", "/methods/x"),
    ("PUT", "/methods/x"),
    ("GET", "/editors/x"),
    ("GET", "/%61dmin/x"),
    ("GET", "/kept/a%2Fb/x"),
    ("HEAD", "/admin/x"),
    ("PURGE", "/public/x"),
    ("TRACE", "/api/x"),
    ("GET", "/small/x"),
]


@pytest.mark.parametrize("dialect", ["Forwarded", "Original"])
@pytest.mark.parametrize(("method", "target"), REQUESTS)
def test_the_verdict_is_the_decision_of_the_proxy(
    gateway: Gateway, upstream: RecordingUpstream, user: Account, admin: Account, method: str, target: str, dialect: str
) -> None:
    garbage = "Authorization: Bearer a.b.c"
    for fields in ([], [user.line], [admin.line], [garbage], [user.line, admin.line]):
        proxied = gateway.ask(request(target, method=method, fields=fields), method=method)
        upstream.requests.clear()
        verified = gateway.ask(question(target, method=method, fields=fields, dialect=dialect))
        if method == "HEAD":
            assert verified.status == proxied.status
        else:
            assert same(verified, proxied), (fields, verified.status, verified.code, proxied.status, proxied.code)
        assert upstream.requests == []


@pytest.mark.parametrize("target", [*ALWAYS.values(), *STRICT.values()], ids=[*ALWAYS, *STRICT])
def test_an_ambiguous_path_is_refused(gateway: Gateway, admin: Account, target: str) -> None:
    assert gateway.ask(question(target, fields=[admin.line])).refused() == (400, "bad_path")


@pytest.mark.parametrize(
    "target", ["https://a/%zz", "https://gateway.test/%zz", "https://other.test/public/x", "public/x"]
)
def test_CVE_2021_32637_unparsable_requests_are_refused(gateway: Gateway, admin: Account, target: str) -> None:
    assert gateway.ask(question(target, fields=[admin.line])).status == 400


def test_CVE_2021_32637_no_odd_target_gets_another_verdict_than_from_the_proxy(
    gateway: Gateway, upstream: RecordingUpstream
) -> None:
    chance = random.Random(20261122)
    allowed = 0
    for _ in range(300):
        start = chance.choice(["/public", "/public/", "/admin", "/"])
        target = start + "".join(chance.choices(PIECES, k=chance.randint(1, 6)))
        verified = gateway.ask(question(target))
        if "#" in target and gateway.face == "asgi":  # uvicorn removes it from the target of the proxied request
            assert verified.status == 400
            continue
        proxied = gateway.ask(request(target))
        if target.startswith("http:") and gateway.face == "asgi":
            continue
        assert same(verified, proxied), (target, verified.status, proxied.status)
        allowed += verified.status == 200
    assert allowed > 10


@pytest.mark.parametrize("by", ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "PURGE"])
def test_a_question_may_come_by_any_method(gateway: Gateway, user: Account, by: str) -> None:
    assert gateway.ask(question("/api/x", fields=[user.line], by=by), method=by).status == 200
    assert gateway.ask(question("/api/x", by=by), method=by).status == 401


def test_without_a_method_it_is_that_of_the_question(gateway: Gateway) -> None:
    for by, status in (("GET", 200), ("DELETE", 405)):
        assert gateway.ask(request(VERIFY, method=by, fields=["X-Forwarded-Uri: /methods/x"])).status == status


@pytest.mark.parametrize("method", ["get", "FOO", "CONNECT", "G E T", "GET, POST", "\xff"])
def test_a_method_that_no_request_has_is_not_implemented(gateway: Gateway, method: str) -> None:
    assert gateway.ask(question("/public/x", method=method)).refused() == (501, "method_not_implemented")


@pytest.mark.parametrize(
    "fields",
    [
        ["X-Forwarded-Uri: /public/x", "X-Forwarded-Uri: /public/x"],
        ["X-Forwarded-Uri: /public/x", "x-forwarded-uri: /admin/x"],
        ["X-Forwarded-Uri: /public/x", "X-Original-URI: /admin/x"],
        ["X-Original-URI: /public/x", "X-Forwarded-Uri: /public/x?"],
        ["X-Forwarded-Uri: /public/x", "X-Forwarded-Method: GET", "X-Original-Method: POST"],
        ["X-Forwarded-Uri: /public/x", "X-Original-Method: GET", "X-Original-Method: GET"],
        ["X-Forwarded-Uri: /public/x", "X-Forwarded-Host: a.test", "X-Forwarded-Host: a.test"],
        ["X-Forwarded-Uri: /public/x", "X-Forwarded-Host: a.test, b.test"],
    ],
)
def test_repeated_and_contradicting_fields_are_refused(gateway: Gateway, fields: list[str]) -> None:
    assert gateway.ask(request(VERIFY, fields=fields)).status == 400


def test_both_dialects_can_agree(gateway: Gateway) -> None:
    fields = ["X-Original-URI: /public/x", "X-Original-Method: GET"]
    assert gateway.ask(question("/public/x", fields=fields)).status == 200


@pytest.mark.parametrize(
    "fields",
    [
        [],
        ["X-Forwarded-Method: GET"],
        ["X-Forwarded-Uri:"],
        ["X_Forwarded_Uri: /public/x"],
        ["X!Forwarded!Uri: /public/x"],
    ],
)
def test_a_question_about_nothing_is_forbidden(gateway: Gateway, fields: list[str]) -> None:
    assert gateway.ask(request(VERIFY, fields=fields)).refused() == (403, "forbidden")


def test_CVE_2026_40575_a_stranger_gets_no_verdict(gateways: Gateways, face: Face) -> None:
    strict = gateways.gateway("standard", face)
    for fields in ([], ["X-Original-URI: /public/x"], ["X-Forwarded-For: 127.0.0.1"]):
        assert strict.ask(question("/public/x", fields=fields)).refused() == (403, "forbidden")


def test_the_host_asked_about_picks_the_routes(gateway: Gateway, user: Account, admin: Account) -> None:
    for named in (
        question("/x", fields=["X-Forwarded-Host: ADMIN.example.com:443", user.line]),
        question("/x", fields=[user.line], host="admin.example.com."),
    ):
        assert gateway.ask(named).refused() == (403, "forbidden")
    assert gateway.ask(question("/x", fields=["X-Forwarded-Host: admin.example.com", admin.line])).status == 200
    assert gateway.ask(question("/x", fields=["X-Forwarded-Host: a/b", admin.line])).refused() == (400, "bad_host")


# ---- contents of a verdict


def values(answer: Answer) -> dict[str, list[bytes]]:
    return {name: answer.values(name) for name in IDENTITY}


def test_an_admitted_user_is_named(gateway: Gateway, user: Account) -> None:
    answer = gateway.ask(question("/api/%61", fields=[user.line, "X-User-Id: root", "x_user_id: root"]))
    assert answer.status == 200
    assert answer.body == b""
    assert values(answer) == {
        "X-User-Id": [user.id.encode()],
        "X-User-Email": [user.email.encode()],
        "X-User-Roles": [b"user"],
    }
    assert answer.values("x-gateway-path") == [b"/api/a"]
    assert answer.values("x-gateway-route") == [b"/api/**"]
    assert answer.values("cache-control") == [b"no-store"]
    assert not answer.head.has("x-envoy-auth-headers-to-remove")


@pytest.mark.parametrize("target", ["/public/x", "/optional/x"])
@pytest.mark.parametrize("fields", [[], ["Authorization: Bearer nonsense"]])
def test_GHSA_7r4p_vjf4_gxv4_an_anonymous_verdict_has_every_identity_header_without_a_value(
    gateway: Gateway, target: str, fields: list[str]
) -> None:
    """A proxy that copies response fields then overwrites the client's fields (CVE-2026-31908)."""
    answer = gateway.ask(question(target, fields=[*fields, *(f"{name}: root" for name in IDENTITY)]))
    assert answer.status == 200
    assert values(answer) == {name: [b""] for name in IDENTITY}
    assert answer.value("x-envoy-auth-headers-to-remove") == ",".join(IDENTITY).encode()


@pytest.mark.parametrize(
    ("target", "sent"),
    [
        ("/rewritten/7/x/y?z=1", b"/v2/7/data/x/y"),
        ("/stripped", b"/"),
        ("/kept/a%2fb/x", b"/kept/a%2Fb/x"),
        ("/public/%41?a#".removesuffix("#"), b"/public/A"),
    ],
)
def test_the_path_to_forward_is_returned(gateway: Gateway, user: Account, target: str, sent: bytes) -> None:
    assert gateway.ask(question(target, fields=[user.line])).value("x-gateway-path") == sent


def test_a_refusal_is_the_callers(gateway: Gateway, user: Account) -> None:
    missing = gateway.ask(question("/api/x", fields=["X-Request-Id: abc"]))
    assert missing.refused() == (401, "token_missing")
    assert missing.value("www-authenticate") == b"Bearer"
    assert missing.json()["request_id"] == "abc"
    wrong = gateway.ask(question("/api/x", fields=["Authorization: Bearer a.b.c"]))
    assert wrong.value("www-authenticate") == b'Bearer error="invalid_token"'
    other = gateway.ask(question("/methods/x", method="DELETE"))
    assert sorted((other.value("allow") or b"").split(b", ")) == [b"GET", b"HEAD", b"POST", b"PUT"]
    for answer in (missing, wrong, other):
        assert answer.values("cache-control") == [b"no-store"]
        assert not any(answer.head.has(name) for name in (*IDENTITY, "x-gateway-path"))


def test_the_gateways_own_paths_are_not_for_an_upstream(gateway: Gateway, user: Account) -> None:
    for target in ("/auth/me", "/_gateway/health", VERIFY, "/.well-known/jwks.json"):
        assert gateway.ask(question(target, fields=[user.line])).refused() == (404, "no_route"), target
    assert gateway.ask(question("/auth/login", method="POST")).refused() == (404, "no_route")
    assert gateway.ask(question("/auth/me")).refused() == (401, "token_missing")
    assert gateway.ask(question("/auth/login")).refused() == (405, "method_not_allowed")


HANDSHAKE = ["Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="]
UPGRADE = ["Connection: Upgrade", "Upgrade: websocket"]


@pytest.mark.parametrize("as_sent", [[*UPGRADE, *HANDSHAKE], HANDSHAKE, ["Upgrade: websocket", *HANDSHAKE]])
def test_a_handshake_is_one_even_where_the_proxy_keeps_its_upgrade(
    gateway: Gateway, user: Account, as_sent: list[str]
) -> None:
    def verdict(target: str, *fields: str | bytes) -> tuple[int, str | None]:
        return gateway.ask(question(target, fields=[*as_sent, *fields])).refused()

    assert verdict("/api/x", user.line) == (403, "websocket_not_allowed")
    assert verdict("/public/x") == (403, "websocket_not_allowed")
    assert verdict("/sockets/x", user.line) == (200, None)
    assert verdict("/sockets/x") == (401, "token_missing")
    assert verdict("/sockets/x", f"Sec-WebSocket-Protocol: bearer, {user.token}") == (200, None)
    assert verdict("/sockets-of-admins/x", user.line) == (403, "forbidden")
    assert verdict("/sockets-of-pages/x", "Origin: https://evil.example") == (403, "origin_not_allowed")
    assert verdict("/sockets-of-pages/x", "Origin: https://app.example.com") == (200, None)


def test_a_disabled_user_is_refused(gateway: Gateway) -> None:
    newcomer = gateway.newcomer()
    assert gateway.ask(question("/api/x", fields=[newcomer.line])).status == 200
    assert gateway.ask(request("/auth/logout", method="POST", fields=[newcomer.line], body=b"")).status == 204
    assert gateway.ask(question("/api/x", fields=[newcomer.line])).refused() == (401, "token_revoked")


# ---- limits, CORS, and connection state

PAGES = {"origins": ["https://app.example.com"]}
ROUTES: list[dict[str, object]] = [
    {"path": "/limited/**", "upstream": "web", "rate_limit": {"requests": 3, "per": "1h"}},
    {"path": "/by-address/**", "auth": "none", "upstream": "web",
     "rate_limit": {"requests": 2, "per": "1h", "by": "address"}},
    {"path": "/pages/**", "upstream": "web", "cors": PAGES},
]  # fmt: skip


@pytest.fixture
def limited(gateways: Gateways, face: Face) -> Gateway:
    server = {"trusted_proxies": ["127.0.0.0/8"]}
    identity = {"assertion": {"header": "X-Identity-Token", "ttl": "60s"}}
    return gateways.gateway("verifying", face, server=server, identity=identity, routes=ROUTES)


def test_questions_and_requests_are_counted_together(limited: Gateway) -> None:
    fields = [limited.newcomer().line]
    assert limited.ask(question("/limited/x", fields=fields)).value("ratelimit") == b'"user";r=2;t=1200'
    assert limited.ask(request("/limited/x", fields=fields)).status == 200
    assert limited.ask(question("/limited/x", fields=fields)).status == 200
    refused = limited.ask(question("/limited/x", fields=fields))
    assert refused.refused() == (429, "rate_limited")
    assert refused.head.has("retry-after")


def test_clients_are_distinguished_by_the_address_from_the_proxy(limited: Gateway) -> None:
    def ask(address: str) -> int:
        return limited.ask(question("/by-address/x", fields=[f"X-Forwarded-For: {address}"])).status

    first = f"192.0.2.{7 if limited.face == 'serve' else 8}"
    assert [ask(first) for _ in range(3)] == [200, 200, 429]
    assert ask("198.51.100.1") == 200


def test_a_preflight_is_answered_and_no_permission(limited: Gateway) -> None:
    asks = ["Origin: https://app.example.com", "Access-Control-Request-Method: GET"]
    answer = limited.ask(question("/pages/x", method="OPTIONS", fields=asks))
    assert answer.status == 204
    assert answer.value("access-control-allow-origin") == b"https://app.example.com"
    assert not any(answer.head.has(name) for name in (*IDENTITY, "x-gateway-path"))
    evil = ["Origin: https://evil.example", "Access-Control-Request-Method: GET"]
    assert limited.ask(question("/pages/x", method="OPTIONS", fields=evil)).refused() == (403, "origin_not_allowed")
    refused = limited.ask(question("/pages/x", fields=["Origin: https://app.example.com"]))
    assert refused.refused() == (401, "token_missing")
    assert refused.value("access-control-allow-origin") == b"https://app.example.com"


def test_a_question_is_logged_and_counted_once_under_its_own_name(limited: Gateway) -> None:
    someone = limited.newcomer()
    lines: list[str | bytes] = ["X-Request-Id: verified-once", someone.line]
    assert limited.ask(question("/api/x", fields=lines)).status == 200
    assert limited.ask(question("/nowhere", fields=["X-Request-Id: refused-once"])).status == 404
    limited.get("/_gateway/health")

    def logged(request_id: str) -> list[dict[str, object]]:
        return [json.loads(line) for line in limited.log().splitlines() if f'"{request_id}"' in line]

    eventually(lambda: len(logged("verified-once")) == 1 and len(logged("refused-once")) == 1)
    passed, refused = logged("verified-once")[0], logged("refused-once")[0]
    assert (passed["route"], passed["status"], passed["user"]) == ("operations.verify", 200, someone.id)
    assert (refused["route"], refused["status"], refused["code"]) == ("operations.verify", 404, "no_route")


def test_a_body_that_came_along_is_read_over(gateway: Gateway, user: Account) -> None:
    with gateway.caller() as caller:
        for length in (5, 1000):
            head = question("/api/x", method="POST", fields=[user.line, f"Content-Length: {length}"], by="POST")
            assert caller.send(head + b"x" * length).receive("POST").status == 200
            if gateway.face == "asgi":
                break


def test_questions_follow_each_other_on_one_connection(gateway: Gateway, user: Account, sign_in: SignIn) -> None:
    with gateway.caller() as caller:
        for target, fields, status in [
            ("/api/x", [user.line], 200),
            ("/api/x", [], 401),
            ("/admin/x", [user.line], 403),
            ("/admin/x", [sign_in("admin").line], 200),
            ("/nowhere", [], 404),
        ] * 3:
            assert caller.send(question(target, fields=fields)).receive().status == status


def test_the_answer_holds_the_assertion_for_the_upstream_of_the_route(limited: Gateway) -> None:
    user = limited.login("user@example.com")
    for path, audience in (("/api/x", "web"), ("/sockets-over-tls/x", "secure")):
        answer = limited.ask(question(path, fields=[user.line, "X-Identity-Token: forged"]))
        (assertion,) = answer.values("x-identity-token")
        if path == "/api/x":
            assert claims_of(assertion.decode())["aud"] == audience
            assert claims_of(assertion.decode())["sub"] == user.id
        else:  # a route without identity
            assert assertion == b""
            assert b"X-Identity-Token" in answer.values("x-envoy-auth-headers-to-remove")[0]


def test_a_trace_carries_no_proof_of_identity(limited: Gateway) -> None:
    """RFC 9110 9.3.8: the upstream shows it to the client."""
    user = limited.login("user@example.com")
    for method, proven in (("GET", True), ("TRACE", False)):
        answer = limited.ask(question("/traced/x", method=method, fields=[user.line]))
        assert answer.status == 200
        assert answer.values("x-user-id") == [user.id.encode()]
        assert [bool(value) for value in answer.values("x-identity-token")] == [proven]
