"""Path advisories of similar systems, by identifier.

The policy of every case: `/public/**` for everyone, `/admin/**` for admins, `/api/**` for signed-in users. These tests
call the decision functions; other tests repeat the cases over sockets.
"""

from dataclasses import dataclass

import pytest

from gateway.errors import Refusal
from gateway.policy.decide import authorize
from gateway.policy.policy import Policy
from gateway.wire.hosts import canonical_host
from gateway.wire.paths import canonical_target
from tests.policy.policies import policy_of

ROUTES: list[dict[str, object]] = [
    {"path": "/public/**", "auth": "none", "name": "public"},
    {"path": "/admin/**", "roles": ["admin"], "name": "admin"},
    {"path": "/api/**", "name": "api"},
]
STRICT = policy_of(ROUTES)
RELAXED = policy_of(ROUTES, relaxed=True)


@dataclass(frozen=True)
class User:
    id: str
    roles: frozenset[str]


PLAIN = User("u", frozenset({"user"}))
ADMIN = User("a", frozenset({"admin"}))


def decision(
    policy: Policy, target: bytes, user: User | None, method: bytes = b"GET", host: bytes = b"gateway.example"
) -> str:
    """The name of the allowed route, or status and code of the refusal."""
    try:
        understood = canonical_target(target, relaxed=policy is RELAXED)
        route, captures = policy.match(canonical_host(host), understood, method)
    except Refusal as refusal:
        return f"{refusal.status} {refusal.code}"
    denied = authorize(route, captures, user)
    return route.name if denied is None else f"{denied.status} {denied.code}"


@pytest.mark.parametrize("user", [None, PLAIN])
@pytest.mark.parametrize("policy", [STRICT, RELAXED], ids=["strict", "relaxed"])
@pytest.mark.parametrize(
    ("advisory", "target"),
    [
        ("CVE-2026-33494", b"/public/../admin/x"),
        ("CVE-2026-33494", b"/public/%2e%2e/admin/x"),
        ("CVE-2026-33494", b"/public/.%2e/admin/x"),
        ("CVE-2026-33494", b"/./admin"),
        ("CVE-2021-29492", b"//admin/x"),
        ("CVE-2021-29492", b"/public%2f..%2fadmin/x"),
        ("CVE-2021-29492", b"/public%5c..%5cadmin"),
        ("CVE-2021-29492", b"/public\\..\\admin"),
        ("CVE-2025-66490", b"/admin%2fx"),
        ("CVE-2025-66490", b"/admin%5cx"),
        ("CVE-2025-66490", b"/admin%00x"),
        ("CVE-2025-66490", b"/admin%3bx"),
        ("CVE-2025-66490", b"/admin%252fx"),
        ("CVE-2025-66490", b"/admin%3fx"),
        ("CVE-2025-66490", b"/admin%23x"),
        ("CVE-2025-54576", b"/admin/x?path=/public/x"),
        ("GHSA-pxq7-h93f-9jrg", b"/admin#/public/x"),
        ("GHSA-pxq7-h93f-9jrg", b"/admin%23/public"),
        ("CVE-2026-73511", b"/admin;a=b/x"),
        ("CVE-2026-73553", b"/public/..;/admin/x"),
        ("CVE-2025-46821", b"/admin/a*b"),
        ("CVE-2026-48020", b"/public../admin/x"),
        ("CVE-2026-40912", b"/%61dmin/x"),
        ("CVE-2026-40912", b"/admin%20/x"),
        ("CVE-2021-32637", b"/%zz"),
        ("case", b"/Public/x"),
        ("case", b"/ADMIN/x"),
        ("GHSA-9g5w-hqr3-w2ph", b"/admin/\xff"),
    ],
)
def test_no_spelling_opens_an_admin_path(advisory: str, target: bytes, policy: Policy, user: User | None) -> None:
    refusals = ("400 bad_path", "401 token_missing", "403 forbidden", "404 no_route")
    assert decision(policy, target, user) in refusals


@pytest.mark.parametrize(
    ("advisory", "target"),
    [
        ("CVE-2026-26205", b"//public/admin/x"),
        ("CVE-2026-33494", b"/public/../admin/x"),
        ("CVE-2021-29492", b"//admin/x"),
        ("CVE-2026-73511", b"/public;a=b/x"),
        ("CVE-2025-66490", b"/api/a%2fb"),
        ("CVE-2025-66490", b"/api/a%5cb"),
        ("CVE-2025-66490", b"/api/a%00b"),
        ("CVE-2025-66490", b"/api/a%3bb"),
        ("CVE-2025-66490", b"/api/a%2541b"),
        ("CVE-2025-66490", b"/api/a%3fb"),
        ("CVE-2025-66490", b"/api/a%23b"),
    ],
)
def test_by_default_an_ambiguous_path_is_a_bad_request_for_every_caller(advisory: str, target: bytes) -> None:
    for user in (None, PLAIN, ADMIN):
        assert decision(STRICT, target, user) == "400 bad_path"


@pytest.mark.parametrize(
    ("target", "user", "expected"),
    [
        (b"/public/x?a=../..", None, "public"),
        (b"/admin/x", ADMIN, "admin"),
        (b"/%61dmin/a*b", ADMIN, "admin"),
        (b"/admin", PLAIN, "403 forbidden"),
        (b"/admin/", None, "401 token_missing"),
        (b"/api/100%25", PLAIN, "api"),
        (b"/other", ADMIN, "404 no_route"),
    ],
)
def test_honest_requests_are_decided_by_their_route(target: bytes, user: User | None, expected: str) -> None:
    assert decision(STRICT, target, user) == expected
    assert decision(RELAXED, target, user) == expected


HOSTED = policy_of(
    [
        {"path": "/**", "auth": "none", "name": "default"},
        {"path": "/**", "host": "admin.example.com", "roles": ["admin"], "name": "admin"},
    ]
)


@pytest.mark.parametrize(
    ("advisory", "host", "expected"),
    [
        ("CVE-2021-39155", b"admin.example.com", "403 forbidden"),
        ("CVE-2021-39155", b"ADMIN.example.com", "403 forbidden"),
        ("trailing dot", b"admin.example.com.", "403 forbidden"),
        ("trailing dot", b"admin.example.com.:443", "403 forbidden"),
        ("port", b"admin.example.com:443", "403 forbidden"),
        ("CVE-2026-48710", b"admin.example.com/public/x?y=", "400 bad_host"),
        ("CVE-2026-48710", b"admin.example.com\\x", "400 bad_host"),
        ("user information", b"x@admin.example.com", "400 bad_host"),
        ("escapes", b"admin%2eexample.com", "400 bad_host"),
        ("CVE-2026-100724", b"admin.example.com.evil.example", "default"),
    ],
)
def test_a_rule_for_a_host_holds_for_every_spelling_of_it(advisory: str, host: bytes, expected: str) -> None:
    assert decision(HOSTED, b"/x", PLAIN, host=host) == expected


@pytest.mark.parametrize("method", [b"get", b"FOO", b"TRACE", b"CONNECT", b"", b"GET\x00", b"G\xcbT"])
def test_a_method_trick_is_never_served_by_a_broader_pattern(method: bytes) -> None:
    """Caddy f45006846, Envoy 34988: an unlisted method fell through to a rule with weaker requirements."""
    policy = policy_of([{"path": "/admin", "methods": ["GET"], "roles": ["admin"]}, {"path": "/**", "auth": "none"}])
    assert decision(policy, b"/admin", ADMIN, method) == "405 method_not_allowed"
