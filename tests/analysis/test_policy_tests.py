"""Policy tests: the format, its errors, and the results of running them."""

import json
import re

import jsonschema_rs
import pytest
import yaml

from gateway.analysis.explain import Person
from gateway.analysis.policy_tests import Expectation, PolicyTest, policy_tests_schema, read_policy_tests
from gateway.analysis.simulate import PolicyRequest
from gateway.analysis.test_runner import PolicyTestReport, run_policy_tests, unknown_names
from gateway.policy.roles import RoleHierarchy
from tests.cli.running import ROOT
from tests.policy.policies import Routes, policy_of, settings_of

ROLES = {"admin": ["editor"], "editor": []}
ROUTES: Routes = [
    {"path": "/articles/**", "methods": ["GET"], "auth": "none", "name": "read"},
    {"path": "/articles/**", "methods": ["PUT"], "roles": ["editor"], "name": "write"},
    {"path": "/users/{id}", "owner": "id", "name": "space"},
    {"path": "/x", "host": "api.example", "auth": "none", "name": "api"},
    {"path": "/live", "websocket": True, "auth": "none", "name": "live"},
    {"path": "/shadow", "shadow": True, "name": "shadow"},
]
POLICY = policy_of(ROUTES, roles=ROLES)


def read(text: str) -> tuple[tuple[PolicyTest, ...], list[str]]:
    tests, problems = read_policy_tests(text.encode(), "t.yaml", {"PLACE": "/articles"})
    return tests, [str(problem) for problem in problems]


def sound(text: str) -> tuple[PolicyTest, ...]:
    tests, problems = read(text)
    assert problems == []
    return tests


def run(text: str) -> PolicyTestReport:
    return run_policy_tests(POLICY, RoleHierarchy(ROLES), sound(text))


def one(line: str, *, as_: str = "{roles: [editor]}", verb: str = "deny") -> PolicyTestReport:
    return run(f"- {{name: it, as: {as_}, {verb}: ['{line}']}}")


# ---- parsing


def test_a_test_names_the_caller_and_the_expected_decision() -> None:
    (test,) = sound(
        "- name: editors\n"
        "  as: {id: u1, roles: [editor]}\n"
        "  allow: [PUT /articles/7, 'GET https://api.example?x=1 -> api']\n"
        '  deny: ["GET /a -> 403 GET /a", "GET /b ->404", "GET /c -> some"]\n'
    )
    assert (test.name, test.person) == ("editors", Person("u1", frozenset({"editor"})))
    assert [each.position[1:] for each in test.expectations] == [(3, 11), (3, 28), (4, 10), (4, 34), (4, 50)]
    first, second, third, fourth, fifth = test.expectations
    assert first == Expectation(text="PUT /articles/7", request=PolicyRequest(b"PUT", b"/articles/7"), allowed=True)
    assert (second.request, second.route) == (PolicyRequest(b"GET", b"/?x=1", b"api.example"), "api")
    assert (third.status, third.route) == (403, "GET /a")
    assert (fourth.status, fourth.route) == (404, None)
    assert (fifth.status, fifth.route) == (None, "some")


@pytest.mark.parametrize(
    ("written", "person"),
    [
        ("anonymous", None),
        ("{}", Person()),
        ("{roles: []}", Person()),
        ("{id: '7'}", Person("7")),
        ("{roles: [a, b]}", Person("", frozenset({"a", "b"}))),
    ],
)
def test_the_caller_of_a_test(written: str, person: Person | None) -> None:
    (test,) = sound(f"- {{name: it, as: {written}, allow: [GET /]}}")
    assert test.person == person


def test_variables_are_filled_in_as_in_the_configuration() -> None:
    (test,) = sound('- {name: it, as: anonymous, allow: ["GET ${PLACE}/7"]}')
    assert test.allow[0].request.target == b"/articles/7"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "t.yaml:1:1: (file): is empty"),
        ("a: 1", "t.yaml:1:1: tests: must be a list of tests, found a mapping"),
        ("- 7", "t.yaml:1:3: tests[0]: must be a test, found 7"),
        ("- {as: anonymous, allow: [GET /]}", "t.yaml:1:3: tests[0].name: is missing"),
        ("- {name: it, allow: [GET /]}", "t.yaml:1:3: tests[0].as: is missing"),
        ("- {name: it, as: anonymous}", "t.yaml:1:3: tests[0]: expects nothing"),
        ("- {name: it, as: root, allow: [GET /]}", "t.yaml:1:18: tests[0].as: must be anonymous, or a mapping"),
        ("- {name: it, as: {role: x}, allow: [GET /]}", "t.yaml:1:19: tests[0].as.role: is not a known key"),
        ("- {name: it, as: anonymous, alow: [GET /]}", "t.yaml:1:29: tests[0].alow: is not a known key"),
        ("- {name: it, as: anonymous, allow: GET /}", "t.yaml:1:36: tests[0].allow: must be a list of requests"),
        ("- {name: it, as: anonymous, allow: [GET]}", "t.yaml:1:37: tests[0].allow[0]: must be a request"),
        ("- {name: it, as: anonymous, allow: [get /]}", "tests[0].allow[0]: must be an HTTP method in upper case"),
        ("- {name: it, as: anonymous, allow: [GET x]}", "tests[0].allow[0]: must begin with '/' or http://"),
        ("- {name: it, as: anonymous, allow: [GET /a b]}", "tests[0].allow[0]: must be a request"),
        ("- {name: it, as: anonymous, allow: ['GET /a ->']}", "tests[0].allow[0]: must be a request"),
        ("- {name: it, as: anonymous, allow: ['GET /a -> 200']}", "tests[0].allow[0]: must name no status"),
        ("- {name: it, as: anonymous, deny: ['GET /a -> 200']}", "must name a status that a policy refuses with"),
        ("- {name: it, as: anonymous, deny: ['PUT ws://h/a']}", "must be a GET: a WebSocket handshake is one"),
        ("- {name: it, as: anonymous, deny: [GET /a, GET /a]}", "is repeated, first in line 1"),
        ("- {name: it, name: is, as: anonymous, deny: [GET /a]}", "tests[0].name: is repeated"),
        ("- [\n", "t.yaml:2:1: (file): is not valid YAML"),
    ],
)
def test_errors_are_reported_with_their_position(text: str, problem: str) -> None:
    _, problems = read(text)
    assert len(problems) == 1, problems
    assert problem in problems[0]


def test_all_problems_are_found_at_once() -> None:
    _, problems = read("- {name: it, as: nobody, allow: [GET], deny: [x]}\n- {}\n")
    assert [re.sub(r": .*", "", problem) for problem in problems] == [
        "t.yaml:1:18", "t.yaml:1:34", "t.yaml:1:47", "t.yaml:2:3", "t.yaml:2:3",
    ]  # fmt: skip


def test_names_that_the_configuration_does_not_have_are_problems() -> None:
    tests = sound(
        "- {name: it, as: {roles: [admin, edtior]}, allow: [GET /articles -> raed], deny: [GET /x -> accounts.me]}"
    )
    found = [str(problem) for problem in unknown_names(settings_of(ROUTES, roles=ROLES), POLICY, tests)]
    assert len(found) == 2
    assert (
        "tests[0].as.roles[1]: is not declared in the configuration, found 'edtior' (known: admin, editor)" in found[0]
    )
    assert "t.yaml:1:52: tests[0]: names no route of the configuration, found 'raed'" in found[1]


# ---- running


@pytest.mark.parametrize(
    ("line", "as_", "verb", "fine"),
    [
        ("PUT /articles/7", "{roles: [editor]}", "allow", True),
        ("PUT /articles/7", "{roles: [admin]}", "allow", True),
        ("PUT /articles/7 -> write", "{roles: [admin]}", "allow", True),
        ("PUT /articles/7 -> read", "{roles: [admin]}", "allow", False),
        ("PUT /articles/7", "{}", "allow", False),
        ("PUT /articles/7", "{}", "deny", True),
        ("PUT /articles/7 -> 403", "{}", "deny", True),
        ("PUT /articles/7 -> 401", "{}", "deny", False),
        ("PUT /articles/7 -> 401 write", "anonymous", "deny", True),
        ("PUT /articles/7 -> 401 read", "anonymous", "deny", False),
        ("PUT /articles/7", "{roles: [editor]}", "deny", False),
        ("GET /users/u1", "{id: u1}", "allow", True),
        ("GET /users/u2", "{id: u1}", "allow", False),
        ("GET /users/u1", "{roles: [admin]}", "deny", True),
        ("GET /shadow -> 404", "{}", "deny", True),
        ("GET https://API.example:444/x", "anonymous", "allow", True),
        ("GET /x -> 404", "anonymous", "deny", True),
        ("GET ws://any/live", "anonymous", "allow", True),
        ("GET ws://any/articles -> 403 read", "anonymous", "deny", True),
        ("GET /articles/../x -> 400", "anonymous", "deny", True),
        ("GET /articles/é -> 400", "anonymous", "deny", True),
    ],
)
def test_an_expectation_is_met_or_not(line: str, as_: str, verb: str, fine: bool) -> None:
    report = one(line, as_=as_, verb=verb)
    assert (not report.failures) is fine
    assert all(result.failure is not None and result.failure.verdict == result.verdict for result in report.failures)


def test_routes_without_requests_are_listed_shadow_rules_apart() -> None:
    report = run(
        "- {name: it, as: anonymous, allow: [GET /articles], deny: [PUT /articles, GET /users/7]}\n"
        "- {name: no route, as: anonymous, deny: [GET /live/x, GET /Users/7]}\n"
    )
    assert [route.name for route in report.untouched] == ["api", "live"]
    assert (report.routes, report.coverage) == (5, 60.0)


def test_nearly_all_is_not_all() -> None:
    policy = policy_of([{"path": f"/r{number}", "auth": "none"} for number in range(3000)])
    lines = ", ".join(f"GET /r{number}" for number in range(2999))
    report = run_policy_tests(policy, RoleHierarchy(None), sound(f"- {{name: it, as: anonymous, allow: [{lines}]}}"))
    assert report.coverage == 99.9


# ---- editors


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        ("- {name: it, as: anonymous, allow: [GET /]}", True),
        ("- {name: it, as: {id: u1, roles: [a]}, deny: ['GET / -> 403 x']}", True),
        ("- {name: it, as: nobody, allow: [GET /]}", False),
        ("- {as: anonymous, allow: [GET /]}", False),
        ("- {name: it, as: anonymous, allow: [GET]}", False),
        ("- {name: it, as: anonymous, alow: [GET /]}", False),
    ],
)
def test_the_schema_agrees_with_the_reader(text: str, valid: bool) -> None:
    assert jsonschema_rs.validator_for(policy_tests_schema()).is_valid(yaml.safe_load(text)) is valid
    assert (not read(text)[1]) is valid


def test_the_schema_that_editors_use_is_current() -> None:
    """`gateway schema --tests > config/policy-tests.schema.json` updates the file."""
    assert json.loads((ROOT / "config/policy-tests.schema.json").read_text()) == policy_tests_schema()
    assert (
        (ROOT / "config/policy-tests.yaml")
        .read_text()
        .startswith("# yaml-language-server: $schema=policy-tests.schema.json\n")
    )
