"""The conditions of routes on credentials, the proof that a cookie needs, and the redirect to the sign-in page."""

import json
from math import inf
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import pytest

from gateway.errors import Refusal, reauthentication_required
from gateway.policy.browsers import BrowserPolicy
from gateway.policy.decide import check_kind, check_sign_in
from gateway.policy.loader import load_configuration
from gateway.policy.policy import Policy
from gateway.policy.route import Route
from gateway.wire.fields import FieldRules, RequestFields
from gateway.wire.paths import canonical_target
from gateway.wire.problem import problem_body, problem_fields

FILE = """
server: {public_url: "https://app.example.com"}
sessions: {origins: ["https://admin.example.com"], sign_in: %s}
accounts: {pages: %s}
upstreams: {web: http://127.0.0.1:9000}
routes:
  - {path: /plain, upstream: web}
  - {path: /strict, upstream: web, same_origin: true, websocket: true}
  - {path: /old, upstream: web, sign_in: refuse}
  - {path: /own, upstream: web, sign_in: /login?from=gate}
  - {path: /kinds, upstream: web, credentials: [session, token]}
  - {path: /fresh, upstream: web, fresh: 10m, verified: true}
  - {path: /maybe, upstream: web, auth: optional, credentials: [token]}
  - {path: /verified, upstream: web, auth: optional, verified: true} # gateway: allow optional-with-requirement
"""
NAVIGATION = {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document", "Host": "app.example.com"}


@pytest.fixture
def policy(tmp_path: Path) -> Policy:
    return compiled(tmp_path)


def compiled(folder: Path, *, sign_in: str = "pages", pages: str = "{}") -> Policy:
    file = folder / "gateway.yaml"
    file.write_text(FILE % (sign_in, pages))
    return load_configuration(file).policy


def rules_of(policy: Policy) -> BrowserPolicy:
    assert policy.browsers is not None
    return policy.browsers


def route_at(policy: Policy, path: str) -> Route:
    return policy.match(None, canonical_target(path.encode(), relaxed=False), b"GET").route


def head(fields: dict[str, str]) -> RequestFields:
    found = FieldRules().sort([(name.encode(), value.encode()) for name, value in fields.items()])
    found.canonical_host = None if found.host is None else found.host.lower()
    return found


@pytest.mark.parametrize(
    ("path", "method", "websocket", "proof_needed"),
    [
        ("/plain", "GET", False, False),
        ("/plain", "HEAD", False, False),
        ("/plain", "OPTIONS", False, False),
        ("/plain", "POST", False, True),
        ("/plain", "DELETE", False, True),
        ("/plain", "TRACE", False, True),
        ("/plain", "PROPFIND", False, True),
        ("/plain", "get", False, True),
        ("/strict", "GET", False, True),
        ("/strict", "OPTIONS", False, True),
        ("/plain", "GET", True, True),
    ],
)
def test_a_request_with_a_cookie_needs_proof(
    policy: Policy, path: str, method: str, websocket: bool, proof_needed: bool
) -> None:
    rules, route = rules_of(policy), route_at(policy, path)

    refusal = rules.check_page(
        route, method.encode(), head({"Origin": "https://evil.example"}).kept, can_write=websocket
    )
    proven = rules.check_page(
        route, method.encode(), head({"Origin": "https://admin.example.com"}).kept, can_write=websocket
    )

    assert (refusal is not None) == proof_needed
    assert proven is None
    if refusal is not None:
        assert (refusal.status, refusal.code, refusal.reason) == (403, "cross_site", "Origin is not listed")


@pytest.mark.parametrize(
    ("path", "kind", "accepted"),
    [
        ("/plain", "external", True),
        ("/kinds", "session", True),
        ("/kinds", "token", True),
        ("/kinds", "api_key", False),
        ("/kinds", "external", False),
        ("/maybe", "session", False),
    ],
)
def test_a_route_accepts_kinds_of_credentials(policy: Policy, path: str, kind: str, accepted: bool) -> None:
    refusal = check_kind(route_at(policy, path), kind)

    assert (refusal is None) == accepted
    assert refusal is None or (refusal.status, refusal.code) == (403, "credential_not_allowed")


@pytest.mark.parametrize(
    ("path", "age", "verified", "code"),
    [
        ("/plain", inf, False, None),
        ("/fresh", 600.0, True, None),
        ("/fresh", 600.1, True, "reauthentication_required"),
        ("/fresh", inf, True, "reauthentication_required"),
        ("/fresh", inf, False, "reauthentication_required"),
        ("/fresh", 1.0, False, "email_unverified"),
        ("/fresh", None, True, None),
        ("/fresh", None, False, "email_unverified"),
        ("/verified", inf, False, "email_unverified"),
        ("/verified", inf, True, None),
    ],
)
def test_a_route_asks_for_a_fresh_sign_in_before_a_verified_address(
    policy: Policy, path: str, age: float | None, verified: bool, code: str | None
) -> None:
    refusal = check_sign_in(route_at(policy, path), age=age, verified=verified)

    assert (None if refusal is None else refusal.code) == code


@pytest.mark.parametrize(("path", "authentication"), [("/maybe", "optional"), ("/verified", "required")])
def test_conditions_on_the_user_require_one(policy: Policy, path: str, authentication: str) -> None:
    assert route_at(policy, path).authentication == authentication


@pytest.mark.parametrize(
    ("code", "path", "place"),
    [
        ("token_missing", "/plain", "/account/sign-in"),
        ("token_invalid", "/plain", "/account/sign-in"),
        ("token_expired", "/plain", "/account/sign-in"),
        ("token_revoked", "/plain", "/account/sign-in"),
        ("user_inactive", "/plain", "/account/sign-in"),
        ("reauthentication_required", "/fresh", "/account/confirm"),
        ("email_unverified", "/fresh", "/account/verify"),
        ("token_missing", "/own", "/login"),
        ("token_missing", "/old", None),
        ("forbidden", "/plain", None),
        ("credential_not_allowed", "/plain", None),
        ("cross_site", "/plain", None),
        ("token_missing", "/auth/me", None),
    ],
)
def test_a_navigation_is_redirected_to_the_page_that_resolves_its_refusal(
    policy: Policy, code: str, path: str, place: str | None
) -> None:
    refusal, target = Refusal(code), canonical_target(f"{path}?a=1&b=%2F".encode(), relaxed=False)
    status = refusal.status

    rules_of(policy).redirect(refusal, route_at(policy, path), target, b"GET", head(NAVIGATION))

    if place is None:
        assert (refusal.status, refusal.location) == (status, None)
        return
    assert refusal.status == 303
    location = urlsplit(refusal.location or "")
    assert location.path == place
    assert parse_qsl(location.query)[-1] == ("return_to", f"{path}?a=1&b=%2F")


@pytest.mark.parametrize(
    "change",
    [{"Sec-Fetch-Dest": "image"}, {"Host": "other.example"}, {"Authorization": "Bearer x"}, {"Sec-Fetch-Mode": "cors"}],
)
def test_other_requests_are_not_redirected(policy: Policy, change: dict[str, str]) -> None:
    refusal = Refusal("token_missing")
    target = canonical_target(b"/plain", relaxed=False)

    rules_of(policy).redirect(refusal, route_at(policy, "/plain"), target, b"GET", head({**NAVIGATION, **change}))

    assert (refusal.status, refusal.location) == (401, None)


@pytest.mark.parametrize(("sign_in", "pages"), [("refuse", "{}"), ("pages", "null")])
def test_without_a_page_no_request_is_redirected(tmp_path: Path, sign_in: str, pages: str) -> None:
    policy = compiled(tmp_path, sign_in=sign_in, pages=pages)
    refusal, target = Refusal("token_missing"), canonical_target(b"/plain", relaxed=False)

    rules_of(policy).redirect(refusal, route_at(policy, "/plain"), target, b"GET", head(NAVIGATION))

    assert refusal.status == 401


def test_a_very_long_target_is_not_returned_to(policy: Policy) -> None:
    refusal, target = Refusal("token_missing"), canonical_target(b"/plain?" + b"x" * 5000, relaxed=False)

    rules_of(policy).redirect(refusal, route_at(policy, "/plain"), target, b"GET", head(NAVIGATION))

    assert refusal.location == "/account/sign-in"


def test_a_redirect_is_not_for_caches_and_keeps_its_code(policy: Policy) -> None:
    refusal, target = Refusal("token_missing"), canonical_target(b"/plain", relaxed=False)
    rules_of(policy).redirect(refusal, route_at(policy, "/plain"), target, b"GET", head(NAVIGATION))

    fields, body = dict(problem_fields(refusal, b"r")), json.loads(problem_body(refusal, b"r"))

    assert fields[b"location"] == b"/account/sign-in?return_to=%2Fplain"
    assert fields[b"vary"] == b"Cookie, Sec-Fetch-Mode, Sec-Fetch-Dest, Accept"
    assert fields[b"cache-control"] == b"no-store"
    assert b"www-authenticate" not in fields
    assert (body["status"], body["title"], body["code"]) == (303, "See Other", "token_missing")


def test_a_sign_in_that_is_too_old_is_challenged_by_rfc_9470() -> None:
    refusal = reauthentication_required(600.0, "too old")

    fields, body = dict(problem_fields(refusal, b"r")), json.loads(problem_body(refusal, b"r"))

    assert fields[b"www-authenticate"] == (
        b'Bearer error="insufficient_user_authentication", error_description="Confirm that it is you", '
        b'acr_values="aal1", max_age="600"'
    )
    assert (body["status"], body["max_age"], body["acr_values"]) == (401, 600, "aal1")


@pytest.mark.parametrize(
    ("sign_in", "asked", "leads"),
    [
        ("/plain", "/plain", False),
        ("/plain", "/plain/", False),
        ("/plain?from=gate", "/plain?return_to=%2Fx", False),
        ("/plain", "/strict", True),
        ("/plain/sign-in", "/plain", True),
    ],
)
def test_a_sign_in_page_that_asks_for_a_sign_in_leads_not_to_itself(
    tmp_path: Path, sign_in: str, asked: str, leads: bool
) -> None:
    policy = compiled(tmp_path, sign_in=sign_in)
    refusal, target = Refusal("token_missing"), canonical_target(asked.encode(), relaxed=False)

    rules_of(policy).redirect(refusal, route_at(policy, asked), target, b"GET", head(NAVIGATION))

    assert (refusal.location is not None, refusal.status) == (leads, 303 if leads else 401)
