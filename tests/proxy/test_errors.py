"""All refusals have one format, and each code is caused here or in a test named here."""

from collections.abc import Callable
from http import HTTPStatus

import pytest

from gateway.errors import CODES
from tests.support.expectations import passes
from tests.support.faces import stock
from tests.support.processes import PASSWORD, PROJECT, Account, Gateway
from tests.support.raw import Answer
from tests.support.recording import RecordingUpstream
from tests.support.scripts import HeldConnection, raw, response, silent
from tests.support.token_factory import TokenFactory
from tests.support.wording import bearer, request

# Codes whose cause needs a separate gateway.
ELSEWHERE = {
    "storage_unavailable": "tests/journeys/test_outages.py",
    "registration_closed": "tests/journeys/test_journey.py",
    "token_revoked": "tests/advisories/test_caches.py",
    "request_timeout": "tests/proxy/test_callers.py",
    "refresh_invalid": "tests/advisories/test_sessions.py",
    "refresh_reused": "tests/advisories/test_sessions.py",
    "locked_out": "tests/advisories/test_lockout.py",
    "rate_limited": "tests/gate/test_rate_limits_of_routes.py",
    "origin_not_allowed": "tests/proxy/test_cors.py",
    "upstream_unavailable": "tests/proxy/upstreams/test_health_checks.py",
    "misdirected": "tests/proxy/test_served_hosts.py",
    "not_found": "tests/api/test_administration.py",
    "last_admin": "tests/api/test_administration.py",
    "too_many_api_keys": "tests/api/test_api_keys.py",
    "reauthentication_required": "tests/api/test_api_keys.py",
    "cross_site": "tests/journeys/test_browser_sessions.py",
    "credential_not_allowed": "tests/policy/test_browsers.py",
    "email_unverified": "tests/accounts/mail/test_links.py",
    "link_invalid": "tests/accounts/mail/test_links.py",
    "account_exists": "tests/accounts/mail/test_links.py",
}
# No request should ever cause these.
NEVER = {"internal_error"}


class Causes:
    """A request for each code that causes it."""

    def __init__(
        self, gateway: Gateway, upstream: RecordingUpstream, user: Account, token_factory: TokenFactory
    ) -> None:
        self.gateway = gateway
        self.upstream = upstream
        self.user = user
        self.token_factory = token_factory

    def login(self, email: str, password: str) -> Answer:
        return self.gateway.post("/auth/login", {"email": email, "password": password})

    def bad_path(self) -> Answer:
        return self.gateway.get("/public/../x")

    def bad_host(self) -> Answer:
        return self.gateway.ask(request("/public/x", host="a/b"))

    def bad_request(self) -> Answer:
        return self.gateway.post("/auth/login", b"{")

    def email_taken(self) -> Answer:
        return self.gateway.post("/auth/register", {"email": self.user.email, "password": PASSWORD})

    def token_missing(self) -> Answer:
        return self.gateway.get("/api/x")

    def token_invalid(self) -> Answer:
        return self.gateway.get("/api/x", bearer(self.user.token[:-2]))

    def token_expired(self) -> Answer:
        return self.gateway.get("/api/x", bearer(self.token_factory.good(self.user.token, exp=1_000_000_000)))

    def user_inactive(self) -> Answer:
        return self.gateway.get("/api/x", bearer(self.token_factory.good(self.user.token, sub="nobody")))

    def invalid_credentials(self) -> Answer:
        return self.login(self.user.email, "wrong password")

    def forbidden(self) -> Answer:
        return self.gateway.get("/admin/x", self.user.line)

    def account_disabled(self) -> Answer:
        return self.login("disabled@example.com", PASSWORD)

    def websocket_not_allowed(self) -> Answer:
        key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
        upgrade = ["Connection: Upgrade", "Upgrade: websocket", key, "Sec-WebSocket-Version: 13"]
        return self.gateway.get("/public/x", *upgrade)

    def no_route(self) -> Answer:
        return self.gateway.get("/nowhere")

    def method_not_allowed(self) -> Answer:
        return self.gateway.ask(request("/methods/x", method="DELETE"))

    def body_too_large(self) -> Answer:
        return self.gateway.ask(request("/small/x", method="POST", body=b"x" * 1025))

    def headers_too_large(self) -> Answer:
        return self.gateway.get("/public/x", "X-Large: " + "x" * 17_000)

    def method_not_implemented(self) -> Answer:
        return self.gateway.ask(request("/public/x", method="CONNECT"))

    def upstream_unreachable(self) -> Answer:
        return self.gateway.get("/refusing/x")

    def upstream_invalid(self) -> Answer:
        self.upstream.on("/public/x", raw(b"garbage\r\n\r\n"))
        return self.gateway.get("/public/x")

    def overloaded(self) -> Answer:
        held = HeldConnection(after=response())
        self.upstream.on("/tight/held", held)
        with self.gateway.caller() as caller:
            caller.send(request("/tight/held"))
            held.reached()
            refused = self.gateway.get("/tight/x")
            held.release()
            caller.receive()
        return refused

    def upstream_timeout(self) -> Answer:
        self.upstream.on("/hasty/x", silent())
        return self.gateway.get("/hasty/x")

    def invalid_fields(self) -> Answer:
        return self.gateway.post("/auth/register", {"email": "x", "password": "y"})

    def unsupported_media_type(self) -> Answer:
        return self.gateway.ask(request("/auth/login", method="POST", fields=["Content-Type: text/plain"], body=b"{}"))


HERE = [name for name in vars(Causes) if name in CODES]


def test_every_code_is_met_somewhere() -> None:
    assert set(HERE) | set(ELSEWHERE) | NEVER == set(CODES)
    for code, file in ELSEWHERE.items():
        assert code in (PROJECT / file).read_text("utf-8"), (code, file)


@pytest.fixture
def causes(gateway: Gateway, upstream: RecordingUpstream, user: Account, token_factory: TokenFactory) -> Causes:
    return Causes(gateway, upstream, user, token_factory)


def unmet(gateway: Gateway, code: str) -> bool:
    return code == "headers_too_large" and stock(gateway.face, "head limits")


@pytest.mark.parametrize("code", HERE)
def test_every_refusal_has_the_same_form(causes: Causes, code: str) -> None:
    got = getattr(causes, code)()
    if unmet(causes.gateway, code):
        assert got.status in (200, 431)
        return
    status = CODES[code][0]
    assert got.refused() == (status, code), (got.status, got.body)
    assert got.value("content-type") == b"application/problem+json"
    assert got.values("cache-control") == [b"no-store"]
    assert got.framing == "length"
    problem = got.json()
    keys = {"type", "title", "status", "detail", "code", "request_id"}
    assert set(problem) == (keys | {"errors"} if status == 422 else keys)
    assert problem["status"] == status
    assert isinstance(problem["type"], str)
    assert problem["title"] == HTTPStatus(status).phrase
    assert isinstance(problem["detail"], str) and problem["detail"]
    assert isinstance(problem["request_id"], str) and problem["request_id"]
    assert got.head.has("www-authenticate") == (status == 401)
    assert got.head.has("allow") == (status == 405)
    assert not got.head.has("location")
    assert len(got.values("date")) <= 1
    assert len(got.values("content-length")) == 1


DETAILS = {
    "email_taken": "Email already registered",
    "token_missing": "Not authenticated",
    "token_invalid": "Invalid or expired token",
    "token_expired": "Invalid or expired token",
    "user_inactive": "User not found or inactive",
    "invalid_credentials": "Invalid email or password",
    "forbidden": "Insufficient permissions",
    "account_disabled": "Account is disabled",
}


@pytest.mark.parametrize("code", DETAILS)
def test_the_promised_words_are_used(causes: Causes, code: str) -> None:
    assert getattr(causes, code)().json()["detail"] == DETAILS[code]


CHALLENGES: dict[str, Callable[[bytes], bool]] = {
    "token_missing": lambda value: b"error" not in value,
    "token_invalid": lambda value: b'error="invalid_token"' in value,
    "token_expired": lambda value: b'error="invalid_token"' in value,
    "user_inactive": lambda value: b'error="invalid_token"' in value,
    "invalid_credentials": lambda value: b"error" not in value,
}


@pytest.mark.parametrize("code", CHALLENGES)
def test_a_challenge_names_an_error_only_where_a_credential_was_presented(causes: Causes, code: str) -> None:
    """RFC 6750 3.1: a request without any credential receives no error code."""
    got = getattr(causes, code)()
    challenge = got.value("www-authenticate")
    assert challenge is not None
    assert challenge.startswith(b"Bearer")
    assert CHALLENGES[code](challenge), challenge


def test_errors_of_fields_name_the_field(causes: Causes) -> None:
    errors = causes.invalid_fields().json()["errors"]
    assert {error["field"] for error in errors} == {"email", "password"}
    assert all(set(error) == {"field", "message"} and error["message"] for error in errors)


def test_the_request_id_is_the_callers_own(gateway: Gateway, upstream: RecordingUpstream) -> None:
    """The refusal contains the id under which the upstream would have received the request."""
    for path in ("/api/x", "/nowhere", "/auth/me", "/refusing/x"):
        assert gateway.get(path, "X-Request-Id: the-callers-own").json()["request_id"] == "the-callers-own"
    made = gateway.get("/nowhere", "X-Request-Id: not good").json()["request_id"]
    assert made != "not good"
    received = passes(gateway, upstream, request("/public/x", fields=["X-Request-Id: the-callers-own"]))
    assert received.values("x-request-id") == [b"the-callers-own"]


@pytest.mark.parametrize(
    ("path", "status"), [("/api/x", 401), ("/nowhere", 404), ("/public/../x", 400), ("/refusing/x", 502)]
)
def test_a_refused_head_has_no_body_and_keeps_its_connection(
    gateway: Gateway, upstream: RecordingUpstream, path: str, status: int
) -> None:
    with gateway.caller() as caller:
        got = caller.send(request(path, method="HEAD")).receive("HEAD")
        assert got.status == status
        assert got.value("content-type") == b"application/problem+json"
        assert caller.send(request("/public/x")).receive().body == b"upstream"


def test_a_refused_body_does_not_become_the_next_request(gateway: Gateway, upstream: RecordingUpstream) -> None:
    """The rest of a refused request is read and discarded, or the connection ends; it is never answered."""
    body = request("/public/inside")
    for path, status in (("/api/x", 401), ("/nowhere", 404), ("/methods/x", 401), ("/auth/me", 405)):
        with gateway.caller() as caller:
            caller.send(request(path, method="POST", body=body) + request("/public/after"))
            assert caller.receive("POST").status == status
            try:
                assert caller.receive().body == b"upstream"
            except AssertionError:
                caller.ended()
    assert {one.target for one in upstream.requests} <= {b"/public/after"}


def test_built_in_paths_answer_405_with_their_methods(gateway: Gateway) -> None:
    for path, method, allow in (
        ("/auth/login", "GET", b"POST"),
        ("/auth/register", "DELETE", b"POST"),
        ("/auth/me", "POST", b"GET"),
        ("/.well-known/jwks.json", "POST", b"GET"),
    ):
        got = gateway.ask(request(path, method=method))
        assert got.refused() == (405, "method_not_allowed"), path
        assert allow in (got.value("allow") or b"").replace(b" ", b"").split(b",")


def test_own_paths_are_never_sent_upstream(gateway: Gateway, upstream: RecordingUpstream, admin: Account) -> None:
    """On a host where every path is proxied, these paths still belong to the gateway."""
    below = ("me", "sessions", "users", "audit", "refresh", "logout", "logout-all", "api-keys", "users/1", "sessions/1")
    operations = ("health", "ready", "metrics", "verify", "openapi.json", "docs")
    own = [f"/auth/{name}" for name in below] + [f"/_gateway/{name}" for name in operations]
    somebody = gateway.newcomer()  # the test can log this account out
    for path in (*own, "/.well-known/jwks.json"):
        for method in ("GET", "POST", "DELETE"):
            gateway.ask(request(path, method=method, host="admin.example.com", fields=[somebody.line]))
    assert upstream.requests == []
    passes(gateway, upstream, request("/auth/other", host="admin.example.com", fields=[admin.line]))
