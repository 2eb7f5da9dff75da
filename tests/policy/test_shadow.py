"""Shadow rules: their trial decisions equal their decisions once enforced."""

from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gateway.errors import Refusal
from gateway.policy.policy import Policy
from gateway.policy.shadow import Shadows, shadows_of
from gateway.wire.paths import canonical_target
from tests.policy.policies import policy_of


def due(policy: Policy, path: str, method: str = "GET", host: str | None = None) -> str:
    """The shadow rule that causes the trial decision, with the code of a refusal."""
    shadows = Shadows(policy)
    name = None if host is None else host.encode()
    target = canonical_target(path.encode(), relaxed=False)
    try:
        rule = shadows.rule(shadows.shadow_policy.match(name, target, method.encode()).route.name)
        return "-" if rule is None else rule.name
    except Refusal as refusal:
        rule = shadows.rule_causing_miss(refusal.code, name, target)
        return f"- {refusal.code}" if rule is None else f"{rule.name} {refusal.code}"


def test_a_policy_without_shadow_rules_has_nothing_to_try() -> None:
    assert shadows_of(policy_of([{"path": "/a"}])) is None
    assert shadows_of(policy_of([{"path": "/a"}, {"path": "/a", "shadow": True}])) is not None


@pytest.mark.parametrize(
    ("request_line", "outcome"),
    [
        ("GET /a", "all"),
        ("PUT /a", "all"),
        ("GET /b", "get"),
        ("PUT /b", "- method_not_allowed"),
        ("GET /c", "only-get"),
        ("PUT /c", "-"),
        ("DELETE /c", "only-get method_not_allowed"),
        ("GET /d/e", "narrow"),
        ("PUT /d/e", "narrow method_not_allowed"),
        ("PUT /d/f", "-"),
        ("GET /nowhere", "- no_route"),
        ("GET /auth/me", "-"),
        ("GET /auth/login", "- method_not_allowed"),
    ],
)
def test_a_shadow_rule_matches_the_requests_of_a_real_one(request_line: str, outcome: str) -> None:
    policy = policy_of(
        [
            {"path": "/a", "methods": ["GET"]},
            {"path": "/a", "shadow": True, "name": "all"},
            {"path": "/b"},
            {"path": "/b", "methods": ["GET"], "shadow": True, "name": "get"},
            {"path": "/c", "methods": ["GET", "PUT"]},
            {"path": "/c", "methods": ["GET"], "shadow": True, "name": "only-get"},
            {"path": "/d/**"},
            {"path": "/d/{x}", "methods": ["PUT"]},
            {"path": "/d/e", "methods": ["GET"], "shadow": True, "name": "narrow"},
        ]
    )
    method, path = request_line.split()
    assert due(policy, path, method) == outcome


def test_a_shadow_rule_that_names_a_host_first_would_take_all_its_requests() -> None:
    policy = policy_of([{"path": "/**"}, {"path": "/a", "host": "x.example", "shadow": True, "name": "new-host"}])
    assert due(policy, "/a", host="x.example") == "new-host"
    assert due(policy, "/b", host="x.example") == "new-host no_route"
    assert due(policy, "/a", host="y.example") == "-"
    assert due(policy, "/a") == "-"


_PATHS = ["/a", "/a/b", "/a/{x}", "/{x}/b", "/a/**", "/**"]
_route = st.fixed_dictionaries(
    {"path": st.sampled_from(_PATHS)},
    optional={"methods": st.sampled_from([["GET"], ["PUT"], ["GET", "PUT"]]), "host": st.just("x.example")},
)


def _clash(one: dict[str, Any], other: dict[str, Any]) -> bool:
    methods = [{*each["methods"]} for each in (one, other) if "methods" in each]
    same = (one["path"], one.get("host")) == (other["path"], other.get("host"))
    return same and (len(methods) < 2 or bool(methods[0] & methods[1]))


@given(st.lists(_route, max_size=6), st.lists(_route, min_size=1, max_size=3))
def test_the_trial_decides_as_if_the_shadow_rules_were_enforced(
    enforced: list[dict[str, Any]], tried: list[dict[str, Any]]
) -> None:
    named = [{**each, "name": f"r{number}"} for number, each in enumerate([*enforced, *tried])]
    enforced, tried = named[: len(enforced)], named[len(enforced) :]
    for group in (enforced, tried):
        assume(not any(_clash(one, other) for number, one in enumerate(group) for other in group[:number]))
    shadows = Shadows(policy_of([*enforced, *({**each, "shadow": True} for each in tried)]))
    # Enforced and shadow rules that conflict cannot be in one file, so the merged file cannot be built: skip them.
    assume(not any(_clash(one, other) for one in enforced for other in tried))
    expected = policy_of([*enforced, *tried])
    for path in ("/", "/a", "/a/b", "/a/c", "/c/b", "/a/b/c"):
        for method in (b"GET", b"PUT", b"DELETE"):
            for host in (None, b"x.example"):
                assert _outcome(shadows.shadow_policy, path, method, host) == _outcome(expected, path, method, host)


def _outcome(policy: Policy, path: str, method: bytes, host: bytes | None) -> str:
    try:
        return policy.match(host, canonical_target(path.encode(), relaxed=False), method).route.name
    except Refusal as refusal:
        return refusal.code
