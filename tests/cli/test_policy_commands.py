"""Common properties of `explain`, `test` and `matrix`: they start quickly, and no input makes them crash."""

import re
import string
import subprocess

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.analysis.explain import Person, explain
from gateway.analysis.simulate import PolicyRequest
from gateway.cli.explain_json import document
from gateway.cli.explain_text import lines
from gateway.policy.roles import RoleHierarchy
from tests.cli.running import ROOT, command_line, environment
from tests.policy.policies import Routes, policy_of, settings_of

HEAVY = {
    "alembic", "asyncio", "bcrypt", "cryptography", "email_validator", "httptools", "httpx", "jwt", "opentelemetry",
    "prometheus_client", "pydantic", "redis", "rich", "sqlalchemy", "starlette", "uvicorn", "uvloop", "xml.etree",
}  # fmt: skip


@pytest.mark.parametrize(
    "words",
    [
        ("explain", "GET", "/orders", "--role", "user"),
        ("explain", "GET", "/orders", "--json"),
        ("test", "config/policy-tests.yaml"),
        ("matrix",),
        ("matrix", "--format", "markdown"),
    ],
    ids=" ".join,
)
def test_a_command_about_the_policy_imports_nothing_that_is_heavy(words: tuple[str, ...]) -> None:
    # In an interpreter of its own: the launcher of the tests has imported the gateway already.
    profiled = environment({"PYTHONPROFILEIMPORTTIME": "1"})
    done = subprocess.run(command_line(*words), cwd=ROOT, env=profiled, capture_output=True, text=True, timeout=30)
    imported = set(re.findall(r"\| +([\w.]+)$", done.stderr, re.MULTILINE))
    assert "gateway.policy.loader" in imported
    assert imported.isdisjoint(HEAVY)


# ---- output for any input is safe for terminals

ROUTES: Routes = [
    {"path": "/a/{id}/**", "owner": "id", "roles": {"any": ["x"], "all": ["y"]}, "rewrite": "/z/{id}/{**}"},
    {"path": "/a/{id}", "methods": ["GET"], "auth": "optional", "cors": {"origins": ["https://app.example"]}},
    {"path": "/{x}/b", "encoded_slash": "keep", "websocket": True, "strip_prefix": None},
    {"path": "/h", "host": "api.example"},
]
SETTINGS = settings_of(ROUTES)
POLICIES = [policy_of(ROUTES), policy_of(ROUTES, relaxed=True)]
_PIECES = [
    b"/",
    b"/a",
    b"/b",
    b"%2F",
    b"%2e",
    b"..",
    b";",
    b"%25",
    b"?",
    b"#",
    b"\x1b[2J",
    b"\xff",
    b"%C3%A9",
    b"h",
    b" ",
]
_targets = st.one_of(st.binary(max_size=30), st.lists(st.sampled_from(_PIECES), max_size=8).map(b"".join))
_hosts = st.one_of(st.none(), st.binary(max_size=12), st.sampled_from([b"api.example", b"[::1]:80"]))
_origins = st.one_of(st.none(), st.sampled_from([b"https://app.example", b"null", b"\x1b"]))
_people = st.one_of(
    st.none(),
    st.builds(
        Person,
        st.one_of(st.sampled_from(["", "a"]), st.text(max_size=5)),
        st.sets(st.one_of(st.sampled_from(["x", "y"]), st.text(max_size=3))).map(frozenset),
        st.text(max_size=5),
        st.sampled_from(["active", "disabled", "unknown"]),
    ),
)


@given(
    st.sampled_from(POLICIES),
    st.builds(
        PolicyRequest,
        st.sampled_from([b"GET", b"PUT", b"OPTIONS"]),
        _targets,
        _hosts,
        _origins,
        st.booleans(),
        st.booleans(),
    ),
    _people,
)
@example(POLICIES[0], PolicyRequest(b"GET", b"/a/\xed\xa0\x80"), Person("\ud800"))
@example(POLICIES[0], PolicyRequest(b"GET", b"/a/%E2%80%AE/x"), Person("\u202e"))
def test_any_request_is_explained_in_harmless_text(policy: object, asked: PolicyRequest, person: Person | None) -> None:
    explanation = explain(policy, RoleHierarchy(None), asked, person)  # type: ignore[arg-type]
    explained = document(explanation, SETTINGS)
    assert explained["decision"]["allowed"] is explanation.verdict.is_allowed
    for line in lines(explanation, SETTINGS):
        plain = re.sub(r"\x1b\[\d+m", "", line)  # click's own styles
        assert plain.isprintable(), plain
        assert "\x1b" not in plain


@given(st.text(string.printable, max_size=12))
def test_a_role_is_shown_on_one_line(role: str) -> None:
    explanation = explain(
        POLICIES[0], RoleHierarchy(None), PolicyRequest(b"GET", b"/a/7"), Person("u", frozenset({role}))
    )
    assert all("\n" not in line and "\r" not in line for line in lines(explanation, SETTINGS))
