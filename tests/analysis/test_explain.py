"""Explanations contain the gate's own decision, and consistent reasons for the other routes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.analysis.explain import SIGNED_IN, Credential, Explanation, Person, explain
from gateway.analysis.simulate import PolicyRequest, Subject, simulate
from gateway.policy.policy import Policy
from gateway.policy.roles import RoleHierarchy
from gateway.policy.route import Route
from gateway.policy.shadow import shadows_of
from tests.policy.policies import policy_of
from tests.policy.test_policy_properties import paths, policies
from tests.support.scale import examples

ROLES = RoleHierarchy({"admin": ["editor", "auditor"], "editor": ["user"], "auditor": ["user"], "user": []})
POLICY = policy_of(
    [
        {"path": "/articles/**", "methods": ["GET"], "auth": "optional", "name": "read"},
        {"path": "/articles/**", "methods": ["PUT", "POST"], "roles": ["editor"], "name": "write"},
        {"path": "/articles/drafts", "roles": ["editor"], "name": "drafts"},
        {"path": "/articles/{id}", "methods": ["GET"], "name": "article"},
        {"path": "/articles/{id}/**", "name": "below"},
        {"path": "/users/{user_id}/**", "roles": {"all": ["auditor", "user"]}, "owner": "user_id", "name": "space"},
        {"path": "/open/**", "auth": "none", "name": "open", "strip_prefix": "/open"},
        {"path": "/open/{x}", "auth": "none", "name": "shadowed", "shadow": True},
        {"path": "/open/{x}", "host": "api.example", "name": "api"},
        {"path": "/auth/**", "auth": "none", "name": "broad"},
    ]
)


def why(path: str, method: str = "GET", person: Person | None = SIGNED_IN, host: str | None = None) -> Explanation:
    asked = PolicyRequest(method.encode(), path.encode(), None if host is None else host.encode())
    return explain(POLICY, ROLES, asked, person)


def lost_by_route(explanation: Explanation) -> dict[str, str]:
    return {each.route.name: each.lost for each in explanation.candidates}


@pytest.mark.parametrize(
    ("path", "method", "expected"),
    [
        (
            "/articles/drafts",
            "GET",
            {
                "drafts": "",
                "article": "segment 2: the literal 'drafts' goes before {id}",
                "below": "segment 2: the literal 'drafts' goes before {id}",
                "read": "segment 2: the literal 'drafts' goes before /**",
                "write": "segment 2: the literal 'drafts' goes before /**",
            },
        ),
        (
            "/articles/7",
            "GET",
            {
                "article": "",
                "below": "the path itself goes before /**",
                "read": "segment 2: {id} goes before /**",
                "write": "segment 2: {id} goes before /**",
            },
        ),
        (
            "/articles/7",
            "PATCH",
            {
                "article": "serves GET, HEAD, not PATCH",
                "below": "the path itself goes before /**",
                "read": "segment 2: {id} goes before /**",
                "write": "segment 2: {id} goes before /**",
            },
        ),
        ("/articles", "PUT", {"write": "", "read": "serves GET, HEAD, not PUT"}),
        ("/auth/me", "GET", {"accounts.me": "", "broad": "the gateway's own paths come first"}),
        ("/Open/x", "GET", {"open": "does not take the path: letter case counts: 'open', found 'Open'"}),
        ("/users", "GET", {"space": "does not take the path: it goes on with '{…}'"}),
        ("/nowhere", "GET", {}),
        ("/articles/../x", "GET", {}),
    ],
)
def test_each_route_that_takes_the_path_is_listed_with_the_reason_why_it_lost(
    path: str, method: str, expected: dict[str, str]
) -> None:
    explanation = why(path, method)
    assert lost_by_route(explanation) == expected
    assert list(lost_by_route(explanation)) == list(expected), "in the order of preference"


def test_routes_of_other_hosts_and_shadow_rules_are_listed_too() -> None:
    assert lost_by_route(why("/open/x")) == {
        "open": "",
        "api": "only for the host api.example; the request has no host",
        "shadowed": "a shadow rule: it decides nothing",
    }
    assert lost_by_route(why("/open/x", host="API.example")) == {
        "api": "",
        "open": "has no host, and requests for api.example see only the routes that name it",
        "shadowed": "a shadow rule: it decides nothing",
    }


@pytest.mark.parametrize(
    ("path", "person", "reason"),
    [
        ("/open/x", None, "the route is open to everyone, and no user is looked up"),
        ("/articles", None, "the route is open to anonymous callers too"),
        ("/articles", SIGNED_IN, "the route is open to everyone, and the upstream receives the user's identity"),
        (
            "/articles",
            Person("u1", state="disabled"),
            "the route is open to anonymous callers too; the account cannot sign in, so the caller is anonymous",
        ),
        ("/articles/7", SIGNED_IN, "the route requires a signed-in user and nothing more"),
        ("/articles/7", None, "the route requires a signed-in user"),
        ("/articles/7", Person("u1", state="unknown"), "the account is disabled or does not exist"),
        ("/articles/drafts", Person("u1", frozenset({"admin"})), "the caller has the role editor"),
        ("/users/u1/x", Person("u1"), "the caller is the user whose id is in the capture 'user_id'"),
        ("/users/u1/x", Person("", frozenset({"auditor"})), "the caller has all of the roles auditor, user"),
        (
            "/users/u1/x",
            SIGNED_IN,
            "needs all of the roles auditor, user, or to be the user of the capture 'user_id'; the caller has no role",
        ),
    ],
)
def test_the_reason_is_given_in_words(path: str, person: Person | None, reason: str) -> None:
    assert why(path, person=person).reason == reason


def test_a_405_lists_the_served_methods() -> None:
    assert why("/articles/7", "PATCH").reason == "the path serves GET, HEAD"


def test_roles_come_with_the_shortest_chain_that_implies_them() -> None:
    explanation = why("/articles", person=Person("u1", frozenset({"admin", "guest"})))
    assert [tuple(held) for held in explanation.held] == [
        ("admin", ()),
        ("auditor", ("admin",)),
        ("editor", ("admin",)),
        ("guest", ()),
        ("user", ("admin", "editor")),
    ]


def test_the_rewritten_target_with_its_query_is_sent() -> None:
    assert why("/open/a/b?x=1").sent == b"/a/b?x=1"
    assert why("/articles/7?").sent == b"/articles/7?"
    assert why("/auth/me").sent is None
    assert why("/nowhere").sent is None


_people = st.one_of(
    st.none(),
    st.builds(
        Person,
        st.sampled_from(["", "a", "b"]),
        st.sets(st.sampled_from(["admin", "editor", "user"])).map(frozenset),
        state=st.sampled_from(["active", "active", "disabled", "unknown"]),
        email_verified=st.just(True),
        credential=st.just(Credential()),
    ),
)


@given(policies(), paths, st.sampled_from([b"GET", b"PUT", b"PATCH"]), _people)
@examples(300)
def test_an_explanation_decides_as_the_gate_does_and_its_winner_is_the_route_that_won(
    routes: list[Route], path: bytes, method: bytes, person: Person | None
) -> None:
    policy = Policy(routes)
    for host in (None, b"one.example"):
        asked = PolicyRequest(method, path, host)
        explanation = explain(policy, ROLES, asked, person)
        caller = person and Subject(person.id, ROLES.expand(person.own_roles), person.state == "active")
        verdict = simulate(policy, asked, caller)
        assert (explanation.verdict.route, explanation.verdict.captures) == (verdict.route, verdict.captures)
        assert (explanation.verdict.refusal is None) == (verdict.refusal is None)
        won = [each.route for each in explanation.candidates if not each.lost]
        assert won == ([verdict.route] if verdict.route is not None else [])
        assert len({each.route for each in explanation.candidates}) == len(explanation.candidates)
        assert explanation.reason


def test_the_decision_of_a_shadow_rule_is_shown_beside_the_real_one() -> None:
    policy = policy_of(
        [
            {"path": "/a/**", "auth": "none"},
            {"path": "/a/b", "roles": ["admin"], "methods": ["GET"], "shadow": True, "name": "tried"},
        ]
    )

    def shadow_verdict(path: bytes, *roles: str, method: bytes = b"GET") -> tuple[str, str | None] | None:
        person = Person("u", frozenset(roles))
        explanation = explain(policy, RoleHierarchy(None), PolicyRequest(method, path), person, shadows_of(policy))
        assert explanation.verdict.is_allowed
        tried = explanation.tried
        return None if tried is None else (tried.rule.name, getattr(tried.verdict.refusal, "code", None))

    assert shadow_verdict(b"/a/b", "admin") == ("tried", None)
    assert shadow_verdict(b"/a/b", "user") == ("tried", "forbidden")
    assert shadow_verdict(b"/a/b", "admin", method=b"PUT") == ("tried", "method_not_allowed")
    assert shadow_verdict(b"/a/c") is None
