"""Simulated decisions: the order of checks, and all kinds of callers."""

import pytest

from gateway.analysis.simulate import PolicyRequest, SimulationResult, Subject, simulate
from gateway.policy.policy import Policy
from tests.policy.policies import policy_of

POLICY = policy_of(
    [
        {"path": "/open/**", "auth": "none", "name": "open"},
        {"path": "/maybe", "auth": "optional", "name": "maybe"},
        {"path": "/mine", "name": "mine"},
        {"path": "/articles", "methods": ["GET"], "auth": "none", "name": "read"},
        {"path": "/articles", "methods": ["POST"], "roles": ["editor"], "name": "write"},
        {"path": "/users/{id}", "roles": ["auditor"], "owner": "id", "name": "space"},
        {
            "path": "/live",
            "websocket": True,
            "auth": "none",
            "name": "live",
            "cors": {"origins": ["https://app.example"]},
        },
        {"path": "/only", "host": "api.example", "auth": "none", "name": "api"},
    ]
)
USER = Subject("u1", frozenset({"user"}))
EDITOR = Subject("u2", frozenset({"editor", "user"}))
AUDITOR = Subject("u3", frozenset({"auditor"}))
DISABLED = Subject("u4", frozenset({"editor", "auditor"}), is_active=False)


def text_of(verdict: SimulationResult) -> str:
    code = verdict.refusal.code if verdict.refusal is not None else "answered" if verdict.answered else "allowed"
    return f"{code} {verdict.route.name if verdict.route is not None else '-'}"


@pytest.mark.parametrize(
    ("asked", "caller", "expected"),
    [
        (PolicyRequest(b"GET", b"/open/x"), None, "allowed open"),
        (PolicyRequest(b"GET", b"/open/x"), DISABLED, "allowed open"),
        (PolicyRequest(b"GET", b"/maybe"), None, "allowed maybe"),
        (PolicyRequest(b"GET", b"/maybe"), DISABLED, "allowed maybe"),
        (PolicyRequest(b"GET", b"/mine"), None, "token_missing mine"),
        (PolicyRequest(b"GET", b"/mine"), USER, "allowed mine"),
        (PolicyRequest(b"GET", b"/mine"), DISABLED, "user_inactive mine"),
        (PolicyRequest(b"POST", b"/articles"), None, "token_missing write"),
        (PolicyRequest(b"POST", b"/articles"), USER, "forbidden write"),
        (PolicyRequest(b"POST", b"/articles"), EDITOR, "allowed write"),
        (PolicyRequest(b"PUT", b"/articles"), EDITOR, "method_not_allowed -"),
        (PolicyRequest(b"GET", b"/users/u1"), USER, "allowed space"),
        (PolicyRequest(b"GET", b"/users/u2"), USER, "forbidden space"),
        (PolicyRequest(b"GET", b"/users/u2"), AUDITOR, "allowed space"),
        (PolicyRequest(b"GET", b"/users/%75%31"), USER, "allowed space"),
        (PolicyRequest(b"GET", b"/nowhere"), USER, "no_route -"),
        (PolicyRequest(b"GET", b"/open/../mine"), USER, "bad_path -"),
        (PolicyRequest(b"GET", b"/open", host=b"a b"), USER, "bad_host -"),
        (PolicyRequest(b"GET", b"/only", host=b"API.example:8443"), None, "allowed api"),
        (PolicyRequest(b"GET", b"/open", host=b"api.example"), None, "no_route -"),
        (PolicyRequest(b"GET", b"/only"), None, "no_route -"),
        (PolicyRequest(b"GET", b"/mine", websocket=True), None, "websocket_not_allowed mine"),
        (PolicyRequest(b"GET", b"/live", websocket=True), None, "allowed live"),
        (
            PolicyRequest(b"GET", b"/live", origin=b"https://evil.example", websocket=True),
            None,
            "origin_not_allowed live",
        ),
        (PolicyRequest(b"GET", b"/live", origin=b"https://app.example", websocket=True), None, "allowed live"),
        (PolicyRequest(b"PUT", b"/live", origin=b"https://app.example", preflight=True), None, "answered live"),
        (
            PolicyRequest(b"PUT", b"/live", origin=b"https://evil.example", preflight=True),
            None,
            "origin_not_allowed live",
        ),
        (
            PolicyRequest(b"POST", b"/articles", origin=b"https://app.example", preflight=True),
            None,
            "method_not_allowed -",
        ),
        (PolicyRequest(b"GET", b"/auth/me"), None, "token_missing accounts.me"),
        (PolicyRequest(b"GET", b"/auth/me"), USER, "allowed accounts.me"),
        (PolicyRequest(b"POST", b"/auth/login"), None, "allowed accounts.login"),
    ],
)
def test_the_verdict(asked: PolicyRequest, caller: Subject | None, expected: str) -> None:
    assert text_of(simulate(POLICY, asked, caller)) == expected


def test_a_result_names_the_subject_of_the_route() -> None:
    assert simulate(POLICY, PolicyRequest(b"GET", b"/mine"), USER).caller == USER
    assert simulate(POLICY, PolicyRequest(b"GET", b"/open"), USER).caller is None
    assert simulate(POLICY, PolicyRequest(b"GET", b"/maybe"), DISABLED).caller is None


def test_a_result_has_the_captures_of_the_route() -> None:
    verdict = simulate(POLICY, PolicyRequest(b"GET", b"/users/u1?full=1"), USER)
    assert verdict.captures == (("id", b"u1"),)
    assert verdict.target is not None
    assert (verdict.target.path, verdict.target.query) == (b"/users/u1", b"full=1")


def test_the_status_is_that_of_the_refusal_or_of_the_answer() -> None:
    statuses = [
        simulate(POLICY, asked, None).status
        for asked in (
            PolicyRequest(b"GET", b"/mine"),
            PolicyRequest(b"GET", b"/open"),
            PolicyRequest(b"PUT", b"/live", origin=b"https://app.example", preflight=True),
        )
    ]
    assert statuses == [401, None, 204]


def test_a_path_that_relaxed_mode_would_accept_is_judged_by_the_mode_of_the_policy() -> None:
    def code(policy: Policy) -> str:
        return text_of(simulate(policy, PolicyRequest(b"GET", b"/a//b"), None))

    assert code(policy_of([{"path": "/a/b", "auth": "none"}], relaxed=True)) == "allowed /a/b"
    assert code(policy_of([{"path": "/a/b", "auth": "none"}])) == "bad_path -"
