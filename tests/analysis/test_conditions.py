"""The policy tools on routes with conditions on the credential."""

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.analysis.access import CREDENTIAL_KINDS, CallerKind
from gateway.analysis.diff import Difference, compare
from gateway.analysis.matrix import matrix
from gateway.analysis.simulate import PolicyRequest, SimulationResult, Subject, simulate
from gateway.policy.loader import Configuration, compile_policy
from gateway.policy.roles import RoleHierarchy
from tests.cli.running import run_here
from tests.policy.policies import settings_of

OWN, EVIL = b"https://app.example.com", b"https://evil.example"
SECTIONS: dict[str, Any] = {"server": {"public_url": OWN.decode()}, "sessions": {}, "accounts": {"pages": {}}}


def configuration(*routes: dict[str, Any], **sections: Any) -> Configuration:
    made = settings_of(list(routes), **(SECTIONS | sections))
    return Configuration(made, compile_policy(made), ())


# ---- simulation


def decided(
    route: dict[str, Any],
    method: bytes = b"GET",
    *,
    host: bytes | None = None,
    origin: bytes | None = None,
    websocket: bool = False,
    **facts: Any,
) -> SimulationResult:
    policy = configuration({"path": "/a", **route}).policy
    asked = PolicyRequest(method, b"/a?x=1", host, origin, websocket=websocket)
    return simulate(policy, asked, Subject("u1", frozenset({"user"}), **facts) if facts else None)


SIMULATED: list[tuple[dict[str, Any], dict[str, Any], str | None]] = [
    ({}, {"kind": "token"}, None),
    ({}, {"kind": "session"}, None),
    ({}, {"kind": "session", "method": b"POST"}, "cross_site"),
    ({}, {"kind": "session", "method": b"POST", "origin": EVIL}, "cross_site"),
    ({}, {"kind": "session", "method": b"POST", "origin": OWN}, None),
    ({}, {"kind": "token", "method": b"POST", "origin": EVIL}, None),
    ({}, {"kind": "session", "host": b"other.example"}, "token_missing"),
    ({}, {"kind": "session", "host": b"APP.example.com:443"}, None),
    ({"same_origin": True}, {"kind": "session"}, "cross_site"),
    ({"same_origin": True}, {"kind": "session", "origin": OWN}, None),
    ({"same_origin": True}, {"kind": "token", "origin": EVIL}, None),
    ({"websocket": True}, {"kind": "session", "websocket": True}, "cross_site"),
    ({"websocket": True}, {"kind": "session", "websocket": True, "origin": OWN}, None),
    ({"credentials": ["session"]}, {"kind": "token"}, "credential_not_allowed"),
    ({"credentials": ["session"], "roles": ["admin"]}, {"kind": "api_key"}, "credential_not_allowed"),
    ({"credentials": ["session"]}, {"kind": "session", "method": b"PUT"}, "cross_site"),
    ({"credentials": ["token"]}, {"kind": "session", "method": b"PUT"}, "cross_site"),
    ({"credentials": ["token"]}, {"kind": "token", "is_active": False}, "user_inactive"),
    ({"credentials": ["session"]}, {"kind": "token", "is_active": False}, "credential_not_allowed"),
    ({"fresh": "10m"}, {"kind": "token", "signed_in": 600.0}, None),
    ({"fresh": "10m"}, {"kind": "token", "signed_in": 601.0}, "reauthentication_required"),
    ({"fresh": "10m"}, {"kind": "api_key"}, "reauthentication_required"),
    ({"fresh": "10m"}, {"kind": "external"}, "reauthentication_required"),
    ({"fresh": "10m", "roles": ["admin"]}, {"kind": "token", "signed_in": 601.0}, "forbidden"),
    ({"fresh": "10m", "verified": True}, {"signed_in": 601.0, "email_verified": False}, "reauthentication_required"),
    ({"verified": True}, {"kind": "api_key", "email_verified": False}, "email_unverified"),
    ({"verified": True}, {"kind": "api_key", "email_verified": True}, None),
    ({"fresh": "10m", "auth": "optional"}, {}, "token_missing"),
]


@pytest.mark.parametrize(("route", "facts", "code"), SIMULATED, ids=str)
def test_the_conditions_are_judged_in_order(route: dict[str, Any], facts: dict[str, Any], code: str | None) -> None:
    refusal = decided(route, **facts).refusal

    assert (None if refusal is None else refusal.code) == code


@pytest.mark.parametrize(
    "facts",
    [
        {"kind": "session", "method": b"POST", "origin": EVIL},
        {"kind": "api_key"},
        {"kind": "token", "is_active": False},
    ],
    ids=str,
)
def test_a_credential_that_does_not_count_is_anonymous_on_an_optional_route(facts: dict[str, Any]) -> None:
    verdict = decided({"auth": "optional", "credentials": ["session", "token"]}, **facts)

    assert (verdict.is_allowed, verdict.caller) == (True, None)


@pytest.mark.parametrize(
    ("facts", "location"),
    [
        ({}, "/account/sign-in?return_to=%2Fa%3Fx%3D1"),
        ({"kind": "session", "signed_in": 601.0}, "/account/confirm?return_to=%2Fa%3Fx%3D1"),
        ({"method": b"POST"}, None),
        ({"kind": "token", "signed_in": 601.0}, None),
        ({"host": b"other.example"}, None),
        ({"kind": "session", "signed_in": 1.0}, None),
    ],
    ids=str,
)
def test_a_browser_that_navigates_would_be_redirected(facts: dict[str, Any], location: str | None) -> None:
    assert decided({"fresh": "10m"}, **facts).navigation == location


# ---- the difference of two policies

CONDITIONS: list[dict[str, Any]] = [
    {},
    {"auth": "none"},
    {"auth": "optional"},
    {"auth": "optional", "credentials": ["token"]},
    {"credentials": ["session", "token"]},
    {"credentials": ["api_key", "token"]},
    {"credentials": ["session"], "same_origin": True},
    {"same_origin": True},
    {"fresh": "5m"},
    {"fresh": "10m", "verified": True},
    {"verified": True, "roles": ["admin"]},
    {"fresh": "10m", "credentials": ["session", "token"], "roles": ["user"]},
    {"roles": ["user", "admin"], "same_origin": True},
]
# Each `fresh` above, and just beyond.
AGES = (0.0, 300.0, 301.0, 600.0, 601.0)
METHODS = (b"GET", b"POST", b"PURGE")
ROLE_SETS = (frozenset[str](), frozenset({"user"}), frozenset({"user", "admin"}))


def callers() -> Iterator[tuple[CallerKind, Subject | None, bytes | None]]:
    """Every caller of the model: as a kind, as a subject, and the origin of the page."""
    yield CallerKind(anonymous=True), None, None
    for roles, kind, age, verified, page in product(
        ROLE_SETS, sorted(CREDENTIAL_KINDS), AGES, (True, False), (OWN, EVIL)
    ):
        subject = Subject("u1", roles, True, kind, age, verified)
        fact = CallerKind(
            roles=roles,
            credential=kind,
            older_than=subject.age,
            unverified=not verified,
            foreign_page=kind == "session" and page == EVIL,
        )
        yield fact, subject, page


def is_of_kind(caller: CallerKind, kind: CallerKind) -> bool:
    if caller.anonymous or kind.anonymous:
        return kind.anonymous
    assert caller.older_than is not None
    return (
        kind.roles <= caller.roles
        and kind.credential in (None, caller.credential)
        and (kind.older_than is None or caller.older_than > kind.older_than)
        and (caller.unverified or not kind.unverified)
        and (caller.foreign_page or not kind.foreign_page)
    )


def covers(each: Difference, method: bytes) -> bool:
    text = method.decode()
    return text not in each.except_methods if each.methods is None else text in each.methods


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(CONDITIONS), st.sampled_from(CONDITIONS), st.sampled_from([None, ["GET"], ["POST", "GET"]]))
def test_a_diff_lists_every_change_for_every_caller_and_credential(
    before: dict[str, Any], after: dict[str, Any], methods: list[str] | None
) -> None:
    named = {} if methods is None else {"methods": methods}
    old, new = configuration({"path": "/a", **before}), configuration({"path": "/a", **after, **named})
    found = compare(old, new).differences
    for method in METHODS:
        about = [each for each in found if covers(each, method)]
        for fact, subject, page in callers():
            asked = PolicyRequest(method, b"/a", origin=page)
            was, is_ = (simulate(side.policy, asked, subject).is_allowed for side in (old, new))
            opened = any(is_of_kind(fact, kind) for each in about for reach in each.opens for kind in reach.callers)
            closed = any(is_of_kind(fact, kind) for each in about for reach in each.closes for kind in reach.callers)
            assert opened or was or not is_, (method, fact, about)
            assert closed or is_ or not was, (method, fact, about)


def test_every_named_kind_of_caller_exists() -> None:
    for before, after in product(CONDITIONS, CONDITIONS):
        old, new = configuration({"path": "/a", **before}), configuration({"path": "/a", **after})
        for each in compare(old, new).differences:
            for reach in each.opens:
                for kind in reach.callers:
                    assert any(
                        is_of_kind(fact, kind)
                        and simulate(new.policy, PolicyRequest(method, b"/a", origin=page), subject).is_allowed
                        and not simulate(old.policy, PolicyRequest(method, b"/a", origin=page), subject).is_allowed
                        for fact, subject, page in callers()
                        for method in METHODS
                        if covers(each, method)
                    ), (before, after, kind)


def test_a_changed_condition_is_named_with_its_values() -> None:
    old = configuration({"path": "/a", "fresh": "5m", "credentials": ["session"], "sign_in": "refuse"})
    new = configuration({"path": "/a", "fresh": "10m"})

    (difference,) = compare(old, new).differences

    assert [(each.key, each.old, each.new) for each in difference.changes] == [
        ("credentials", "session", "all"),
        ("fresh", "5m", "10m"),
        ("sign_in", "refuse", "that of sessions"),
    ]


def test_sessions_that_appear_are_a_change_for_review() -> None:
    without = configuration({"path": "/a"}, sessions=None, accounts={})

    assert "sessions" in compare(without, configuration({"path": "/a"})).also


# ---- the other tools


def test_the_matrix_notes_the_conditions_behind_a_yes() -> None:
    made = configuration(
        {"path": "/a", "fresh": "10m", "verified": True, "credentials": ["session"], "roles": ["user"]}
    )

    (row,) = matrix(made.policy.routes, ("user",), RoleHierarchy(None)).rows

    assert row.roles[0].access == "yes"
    assert row.roles[0].conditions == ("fresh 10m", "verified", "session only")
    assert row.anonymous.conditions == row.signed_in.conditions == ()


FILE = """
server: {public_url: "https://app.example.com", trusted_proxies: [127.0.0.1]}
sessions: {}
accounts: {pages: {}}
roles: {admin: [user], user: []}
tokens: {include_roles: true, keys: []}
upstreams: {web: http://127.0.0.1:9000}
routes:
  - {path: /orders, upstream: web, name: orders}
  - path: /admin/**
    methods: [DELETE]
    roles: [admin]
    fresh: 10m
    upstream: web
    name: admin-delete
  - {path: /page, upstream: web, credentials: [session], same_origin: true, name: page}
"""
TESTS = """
- name: administrators confirm before they delete
  as: {roles: [admin], age: 5m}
  allow: ["DELETE /admin/users/7 -> admin-delete"]
- name: an old sign-in is asked again
  as: {roles: [admin], age: 1h}
  deny: ["DELETE /admin/users/7 -> 401 admin-delete"]
- name: no form of another site writes
  as: {roles: [user], credential: cookie, origin: https://evil.example}
  allow: [GET /orders]
  deny: [POST /orders -> 403, GET /page -> 403]
- name: own pages write
  as: {roles: [user], credential: cookie, fetch_site: same-origin}
  allow: [POST /orders, GET /page, DELETE /auth/session]
- name: API keys and tokens do not see the page
  as: {roles: [user], credential: api_key}
  deny: [GET /page -> 403 page]
- name: a browser is sent to the sign-in page
  as: anonymous
  deny: [GET /orders -> 303 orders, GET /orders -> 401, POST /orders -> 401, POST /auth/session -> 403]
"""
WRONG = [
    ("as: anonymous\n  deny: [POST /orders -> 303]", "POST /orders -> 303"),
    ("as: {roles: [admin], age: 11m}\n  allow: [DELETE /admin/x]", "DELETE /admin/x"),
    ("as: {credential: cookie}\n  allow: [POST /orders]", "POST /orders"),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "g.yaml").write_text(FILE)
    return tmp_path


def test_policy_tests_name_credentials_ages_and_pages(folder: Path) -> None:
    (folder / "t.yaml").write_text(TESTS)

    outcome = run_here("test", "t.yaml", "--config", "g.yaml", folder=folder)

    assert "6 tests, 13 requests: all as expected" in outcome.out, outcome.out


@pytest.mark.parametrize(("text", "line"), WRONG)
def test_a_policy_test_that_expects_otherwise_fails(folder: Path, text: str, line: str) -> None:
    (folder / "t.yaml").write_text(f"- name: wrong\n  {text}\n")

    outcome = run_here("test", "t.yaml", "--config", "g.yaml", folder=folder)

    assert outcome.code == 1
    assert f"wrong: {line.partition(' ->')[0]}" in outcome.out


EXPLAINED = [
    (
        "POST /orders --credential cookie --age 20m --origin https://evil.example",
        [
            "credential  the session cookie, signed in 20m ago, address verified",
            "own page    none: Origin is not listed",
        ],
    ),
    ("POST /orders --credential cookie --fetch-site same-origin", ["own page    Sec-Fetch-Site is same-origin"]),
    (
        "DELETE /admin/x --role admin --age 11m",
        ["asks        the role admin; fresh 10m", "needs a sign-in of the last 600 s; the sign-in is 660 s old"],
    ),
    (
        "GET /orders --anonymous",
        ["navigation  a browser that navigates gets 303 to /account/sign-in?return_to=%2Forders"],
    ),
    ("GET /page --credential api-key", ["credential  an API key, address verified", "403 credential_not_allowed"]),
]


@pytest.mark.parametrize(("words", "shown"), EXPLAINED)
def test_explain_shows_the_credential_and_the_proof(folder: Path, words: str, shown: list[str]) -> None:
    out = run_here("explain", *words.split(), "--config", "g.yaml", folder=folder).out

    assert all(each in out for each in shown), out


@pytest.mark.parametrize(
    "words",
    ["--age 20", "--age 5m --credential api-key", "--anonymous --credential cookie", "--anonymous --unverified"],
)
def test_explain_refuses_options_that_contradict_each_other(folder: Path, words: str) -> None:
    assert run_here("explain", "GET", "/orders", *words.split(), "--config", "g.yaml", folder=folder).code == 2


def test_an_export_to_envoy_names_each_line_that_envoy_cannot_enforce(folder: Path) -> None:
    outcome = run_here("export", "envoy", "--native", "--config", "g.yaml", folder=folder)

    found = [
        line.partition(": ")[0] + ": " + line.split(": ")[1]
        for line in outcome.err.splitlines()
        if "without --native" in line
    ]
    assert outcome.code == 1
    assert found == [
        "g.yaml:3:11: sessions",
        "g.yaml:13:12: routes[1].fresh",
        "g.yaml:16:47: routes[2].credentials",
        "g.yaml:16:71: routes[2].same_origin",
    ]
