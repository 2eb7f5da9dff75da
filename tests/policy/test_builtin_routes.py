"""Built-in endpoints: exactly their paths are reserved, for all routes and hosts."""

import pytest

from gateway.errors import Refusal
from gateway.policy.loader import compile_policy
from gateway.policy.policy import Policy
from tests.policy.policies import matched, outcome, policy_of, problems_of, settings_of

# Only the gateway serves these: method, path, and required access.
ACCOUNTS = {
    ("POST", "/register"): "none",
    ("POST", "/login"): "none",
    ("POST", "/refresh"): "none",
    ("POST", "/logout"): "required",
    ("POST", "/logout-all"): "required",
    ("GET", "/me"): "required",
    ("POST", "/password"): "required",
    ("GET", "/sessions"): "required",
    ("DELETE", "/sessions/s1"): "required",
    ("POST", "/session"): "none",
    ("GET", "/session"): "none",
    ("DELETE", "/session"): "none",
    ("POST", "/session/confirm"): "required",
    ("GET", "/api-keys"): "required",
    ("POST", "/api-keys"): "required",
    ("DELETE", "/api-keys/k1"): "required",
    ("GET", "/users"): "admin",
    ("POST", "/users"): "admin",
    ("GET", "/users/u1"): "admin",
    ("PATCH", "/users/u1"): "admin",
    ("DELETE", "/users/u1"): "admin",
    ("POST", "/users/u1/revoke"): "admin",
    ("GET", "/audit"): "admin",
    ("POST", "/verify"): "either",
    ("POST", "/verify/resend"): "signed in",
    ("POST", "/password/forgot"): "none",
    ("POST", "/password/reset"): "none",
    ("POST", "/email"): "signed in",
    ("POST", "/invitations/accept"): "either",
    ("POST", "/users/u1/reset"): "admin",
    ("GET", "/invitations"): "admin",
    ("POST", "/invitations"): "admin",
    ("DELETE", "/invitations/u1"): "admin",
}
ROOT = {
    ("GET", "/.well-known/jwks.json"): "none",
    ("GET", "/.well-known/change-password"): "none",
    ("GET", "/.well-known/webauthn"): "none",
    ("GET", "/.well-known/passkey-endpoints"): "none",
    ("GET", "/_gateway/health"): "none",
    ("GET", "/_gateway/ready"): "none",
    ("GET", "/_gateway/metrics"): "none",
    ("POST", "/_gateway/verify"): "none",
    ("GET", "/_gateway/openapi.json"): "none",
    ("GET", "/_gateway/docs"): "none",
    ("GET", "/_gateway/console"): "none",
    ("POST", "/_gateway/console"): "none",
}
GREEDY = [
    {"path": "/**", "auth": "none", "name": "all"},
    {"path": "/auth/**", "auth": "none", "name": "below"},
    {"path": "/auth/{x}", "auth": "none", "name": "one"},
    {"path": "/{x}/login", "auth": "none", "name": "login"},
    {"path": "/auth/users/me/{x}", "auth": "none", "name": "me"},
    {"path": "/_gateway/**", "auth": "none", "name": "operations"},
    {"path": "/auth/{x}", "auth": "none", "host": "own.example", "name": "hosted"},
]


def own_outcome(policy: Policy, method: str, path: str, host: bytes | None = None) -> str | None:
    """The endpoint for a request, or None if the path is reserved but not served; fails if a route matches."""
    try:
        route = matched(policy, path.encode(), method.encode(), host=host).route
    except Refusal as refusal:
        assert refusal.code == "no_route"
        return None
    assert route.upstream is None
    assert route.endpoint == route.name
    return route.endpoint


@pytest.mark.parametrize("host", [None, b"own.example", b"other.example"])
@pytest.mark.parametrize("prefix", ["/auth", "", "/a/b"])
def test_broad_patterns_never_see_an_own_path(prefix: str, host: bytes | None) -> None:
    greedy = policy_of(GREEDY, accounts={"prefix": prefix})
    alone = policy_of(accounts={"prefix": prefix})
    for method, path in [*((m, prefix + p) for m, p in ACCOUNTS), *ROOT]:
        expected = own_outcome(alone, method, path)
        assert own_outcome(greedy, method, path, host) == expected
        assert own_outcome(greedy, method, path + "/", host) == expected


@pytest.mark.parametrize(("request_line", "access"), [*ACCOUNTS.items(), *ROOT.items()])
def test_the_requirement_of_a_built_in_endpoint(request_line: tuple[str, str], access: str) -> None:
    method, path = request_line
    policy = policy_of(accounts={"admin_role": "chief"})
    text = f"/auth{path}" if request_line in ACCOUNTS else path
    found = [
        route
        for route in policy.own
        if (route.methods is None or method.encode() in route.methods) and _fits(route.pattern, text)
    ]
    assert len(found) == 1
    assert found[0].authentication == {"none": "none", "either": "optional"}.get(access, "required")
    assert found[0].requirement.any == (frozenset({"chief"}) if access == "admin" else None)


def _fits(pattern: str, path: str) -> bool:
    pairs = zip(pattern.split("/"), path.split("/"), strict=False)
    return pattern.count("/") == path.count("/") and all(one in ("{id}", other) for one, other in pairs)


def test_the_table_holds_nothing_else() -> None:
    policy = policy_of()
    assert sum(len(route.methods - {b"HEAD"}) if route.methods else 1 for route in policy.own) == len(ACCOUNTS) + len(
        ROOT
    )
    assert len({route.name for route in policy.own}) == len(policy.own)


@pytest.mark.parametrize(
    ("method", "path", "endpoint"),
    [
        (b"POST", b"/auth/register", "accounts.register"),
        (b"POST", b"/auth/login", "accounts.login"),
        (b"POST", b"/auth/%6Cogin/", "accounts.login"),
        (b"GET", b"/auth/me", "accounts.me"),
        (b"HEAD", b"/auth/me", "accounts.me"),
        (b"POST", b"/auth/password", "accounts.password"),
        (b"GET", b"/.well-known/jwks.json", "tokens.jwks"),
        (b"GET", b"/_gateway/health", "operations.health"),
        (b"GET", b"/_gateway/ready?strict", "operations.ready"),
        (b"GET", b"/auth/login", "method_not_allowed"),
        (b"DELETE", b"/_gateway/health", "method_not_allowed"),
    ],
)
def test_an_own_endpoint_is_matched_like_a_route(method: bytes, path: bytes, endpoint: str) -> None:
    assert outcome(policy_of(GREEDY), path, method) == endpoint


def policy_with_pages(path: str) -> Policy:
    server, accounts = {"public_url": "https://gateway.test"}, {"pages": {"path": path}}
    return compile_policy(settings_of(GREEDY, server=server, sessions={}, accounts=accounts))


@pytest.mark.parametrize("path", ["/account", "/account/sign-in", "/account/verify", "/account/logo"])
def test_paths_of_pages_are_reserved_where_pages_are_configured(path: str) -> None:
    own_outcome(policy_with_pages("/account"), "GET", path)
    for policy in (policy_with_pages("/me"), policy_of(GREEDY)):
        assert outcome(policy, path.encode(), b"GET") == "all"


def test_a_session_counts_on_pages_and_none_is_needed() -> None:
    pages = [route for route in policy_with_pages("/account").own if route.pattern.startswith("/account")]
    assert {route.authentication for route in pages if route.name != "pages.logo"} == {"optional"}


def test_a_reserved_path_that_is_not_served_answers_404_and_goes_nowhere() -> None:
    policy = policy_of([{"path": "/**", "auth": "none"}])
    idle = [route for route in policy.own if not route.is_served]
    for route in idle:
        path = route.pattern.replace("{id}", "x").encode()
        for method in (b"GET", b"POST", b"DELETE"):
            assert outcome(policy, path, method) == "no_route"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (b"/auth", "below"),
        (b"/auth/other", "one"),
        (b"/auth/login/x", "below"),
        (b"/auth/Login", "one"),
        (b"/auth/users/me/x", "me"),
        (b"/auth/me/users", "below"),
        (b"/me", "all"),
        (b"/x/login", "login"),
        (b"/_gateway", "operations"),
        (b"/_gateway/other", "operations"),
        (b"/.well-known/other", "all"),
    ],
)
def test_only_exactly_the_own_paths_are_reserved(path: bytes, expected: str) -> None:
    assert outcome(policy_of(GREEDY), path) == expected


def test_an_own_path_under_a_capture_is_not_hidden_by_a_literal_route() -> None:
    """`/auth/users/me/{x}` begins with a literal where the built-in path has a capture. The built-in path takes
    precedence."""
    found = [route.name for route in policy_of(GREEDY).own if route.pattern == "/auth/users/{id}/revoke"]
    assert found == ["admin.users.revoke"]
    assert own_outcome(policy_of(GREEDY), "POST", "/auth/users/me/revoke") in (None, "admin.users.revoke")


@pytest.mark.parametrize(
    ("path", "prefix", "own"),
    [
        ("/auth/login", "/auth", "/auth/login"),
        ("/auth/login/", "/auth", "/auth/login"),
        ("/auth/%6Cogin", "/auth", "/auth/login"),
        ("/auth/users/me", "/auth", "/auth/users/{id}"),
        ("/auth/users/{user}", "/auth", "/auth/users/{id}"),
        ("/auth/users/me/revoke", "/auth", "/auth/users/{id}/revoke"),
        ("/login", "", "/login"),
        ("/users/{id}", "", "/users/{id}"),
        ("/_gateway/health", "/auth", "/_gateway/health"),
        ("/_gateway/docs", "/auth", "/_gateway/docs"),
        ("/.well-known/jwks.json", "/auth", "/.well-known/jwks.json"),
    ],
)
def test_a_route_that_only_matches_own_paths_is_an_error(path: str, prefix: str, own: str) -> None:
    expected = f"routes[0].path: is one of the gateway's own paths, found '{path}', where '{own}' is"
    for host in (None, "api.example.com"):
        problems = problems_of([{"path": path, "host": host}], accounts={"prefix": prefix})
        assert [problem[: len(expected)] for problem in problems] == [expected]


@pytest.mark.parametrize(
    "path", ["/auth/other", "/auth/**", "/auth/{x}", "/login", "/auth/users/{id}/x", "/auth/users/**"]
)
def test_other_routes_below_the_prefix_are_fine(path: str) -> None:
    assert problems_of([{"path": path}]) == []
