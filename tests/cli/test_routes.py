"""`gateway routes from-openapi` and `gateway check --openapi`: drafts that can be served, and what is left out."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from gateway.drafts.coverage import coverage
from gateway.drafts.drafting import as_yaml, draft
from gateway.drafts.spec import Spec, read_spec
from gateway.policy.access import AccessRules, Caller
from gateway.policy.loading import Configuration, load_configuration
from tests.cli.running import Outcome, run_here

SCHEMES = {
    "tokens": {"type": "http", "scheme": "Bearer"},
    "oauth": {"type": "oauth2", "flows": {}},
    "key": {"type": "apiKey", "in": "header", "name": "X-Key"},
    "basic": {"type": "http", "scheme": "basic"},
}


def document(paths: dict[str, Any], **others: Any) -> dict[str, Any]:
    return {
        "openapi": "3.1.0",
        "info": {"title": "Shop"},
        "components": {"securitySchemes": SCHEMES},
        "paths": paths,
        **others,
    }


def drafted(folder: Path, paths: dict[str, Any], **others: Any) -> Outcome:
    (folder / "spec.json").write_text(json.dumps(document(paths, **others)))
    return run_here("routes", "from-openapi", "spec.json", "--upstream", "shop", folder=folder)


def only_route(folder: Path, operation: dict[str, Any], path: str = "/a", **others: Any) -> dict[str, Any]:
    outcome = drafted(folder, {path: {"get": operation}}, **others)
    assert outcome.code == 0, outcome.err
    (route,) = yaml.safe_load(outcome.out)["routes"]
    assert isinstance(route, dict)
    return route


VARIABLE = {"url": "https://{e}.example.com/{v}", "variables": {"e": {"default": "x"}, "v": {"default": "3"}}}
SECURITY: dict[str, tuple[Any, dict[str, Any]]] = {
    "none is asked for": (None, {"auth": "none"}),
    "none, said": ([], {"auth": "none"}),
    "a token": ([{"tokens": []}], {}),
    "a scope": ([{"oauth": ["editor"]}], {"roles": ["editor"]}),
    "scopes together": ([{"oauth": ["a", "b"]}], {"roles": {"all": ["a", "b"]}}),
    "one scope or another": ([{"oauth": ["a"]}, {"oauth": ["b"]}], {"roles": ["a", "b"]}),
    "a scope or any token": ([{"oauth": ["a"]}, {"tokens": []}], {}),
    "scopes of two schemes": ([{"oauth": ["a"], "tokens": ["b"]}], {"roles": {"all": ["a", "b"]}}),
    "too much to say": ([{"oauth": ["a", "b"]}, {"oauth": ["c"]}], {"roles": {"all": ["a", "b", "c"]}}),
    "a token or nothing": ([{}, {"tokens": []}], {"auth": "optional"}),
    "nothing": ([{}], {"auth": "none"}),
    "a key of the upstream's": ([{"key": []}], {}),
    "a key or a scope": ([{"key": []}, {"oauth": ["a"]}], {"roles": ["a"]}),
    "a key and a scope": ([{"key": [], "oauth": ["a"]}], {"roles": ["a"]}),
    "a scheme that is not there": ([{"gone": ["a"]}], {"roles": ["a"]}),
}


@pytest.mark.parametrize(("security", "asked"), SECURITY.values(), ids=SECURITY)
def test_security_becomes_what_the_route_asks(tmp_path: Path, security: Any, asked: dict[str, Any]) -> None:
    operation = {} if security is None else {"security": security}
    route = only_route(tmp_path, operation)
    assert {key: route[key] for key in ("auth", "roles") if key in route} == asked
    assert route | asked == {"path": "/a", "methods": ["GET"], "upstream": "shop", **asked}


def test_what_the_document_asks_of_all_holds_where_an_operation_says_nothing(tmp_path: Path) -> None:
    security = [{"oauth": ["staff"]}]
    assert only_route(tmp_path, {}, security=security)["roles"] == ["staff"]
    assert only_route(tmp_path, {"security": []}, security=security)["auth"] == "none"


PATHS = {
    "/a/{id}": ("/a/{id}", ""),
    "/a/{user.id}": ("/a/{user_id}", "{user.id} is called {user_id}"),
    "/a/{id}.json": ("/a/{id}", "the whole segment is matched, not only {id}.json"),
    "/a/{x}-{y}/{x}": ("/a/{x_y}/{x}", "the whole segment is matched, not only {x}-{y}"),
    "/a/{x}/{x}": ("/a/{x}/{x_}", "{x} is called {x_}"),
    "/a/{1}": ("/a/{_1}", "{1} is called {_1}"),
    "/é": ("/%C3%A9", ""),
}


@pytest.mark.parametrize(("template", "expected"), PATHS.items(), ids=PATHS)
def test_a_path_template_becomes_a_pattern(tmp_path: Path, template: str, expected: tuple[str, str]) -> None:
    outcome = drafted(tmp_path, {template: {"get": {}}})
    (route,) = yaml.safe_load(outcome.out)["routes"]
    assert route["path"] == expected[0]
    assert expected[1] in outcome.err
    assert bool(outcome.err) == bool(expected[1])
    assert expected[1] in outcome.out


@pytest.mark.parametrize(
    ("servers", "path", "address"),
    [
        ([], "/a", "http://127.0.0.1:9000"),
        ([{"url": "/v1/"}], "/v1/a", "http://127.0.0.1:9000"),
        ([{"url": "https://Api.Example.com:8443/v2"}], "/v2/a", "https://api.example.com:8443"),
        ([{"url": "https://user:pw@api.example.com"}], "/a", "http://127.0.0.1:9000"),
        ([VARIABLE], "/3/a", "https://x.example.com"),
    ],
)
def test_the_first_server_says_the_base_path_and_the_address(
    tmp_path: Path, servers: list[Any], path: str, address: str
) -> None:
    configuration = yaml.safe_load(drafted(tmp_path, {"/a": {"get": {}}}, servers=servers).out)
    assert configuration["routes"][0]["path"] == path
    assert configuration["upstreams"] == {"shop": address}


def test_what_cannot_be_served_is_left_out_and_said(tmp_path: Path) -> None:
    outcome = drafted(
        tmp_path,
        {
            "/auth/login": {"post": {"operationId": "login"}},
            "/a/": {"get": {}},
            "/a": {"get": {"operationId": "again"}, "head": {}},
            "/b#/x": {"get": {}},
            "/c": {"$ref": "other.yaml#/paths/~1c"},
        },
    )
    assert [route["path"] for route in yaml.safe_load(outcome.out)["routes"]] == ["/a"]
    assert outcome.err.splitlines() == [
        "gateway: warning: /c refers to other.yaml#/paths/~1c, which is not in this document: left out",
        "gateway: warning: POST /auth/login (login) is left out: /auth/login is the gateway's own",
        "gateway: warning: GET /a (again) is left out: GET /a/ serves the same requests",
        "gateway: warning: HEAD /a is left out: GET /a/ serves the same requests",
        "gateway: warning: GET /b#/x is left out: its path must not hold a query or a fragment",
    ]


def test_references_within_the_document_are_followed(tmp_path: Path) -> None:
    components = {"pathItems": {"a/b": {"get": {"operationId": "found"}}}, "securitySchemes": SCHEMES}
    outcome = drafted(tmp_path, {"/a": {"$ref": "#/components/pathItems/a~1b"}}, components=components)
    assert yaml.safe_load(outcome.out)["routes"][0]["name"] == "found"


def test_names_are_unique_and_visible(tmp_path: Path) -> None:
    names = ["list all", "list all", "é", "tokens.jwks", None]
    paths = {f"/{number}": {"get": {"operationId": name}} for number, name in enumerate(names)}
    routes = yaml.safe_load(drafted(tmp_path, paths).out)["routes"]
    assert [route.get("name") for route in routes] == ["list-all", "list-all-2", None, "tokens.jwks-2", None]


NO_DOCUMENTS = (
    *("", "[]", "{", "a: [", "\x00", "openapi: 2.0\npaths: {}"),
    *("swagger: '2.0'\npaths: {}", "openapi: 3.1.0\npaths: []"),
)


@pytest.mark.parametrize("text", NO_DOCUMENTS)
def test_what_is_no_document_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "spec.yaml").write_text(text)
    outcome = run_here("routes", "from-openapi", "spec.yaml", "--upstream", "shop", folder=tmp_path)
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith("gateway: spec.yaml is n")
    assert len(outcome.err.splitlines()) == 1


def test_the_upstream_must_be_a_name(tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text(json.dumps(document({})))
    outcome = run_here("routes", "from-openapi", "spec.yaml", "--upstream", "a b", folder=tmp_path)
    assert outcome.code == 2
    assert "--upstream: must be a name" in outcome.err


# ---- whatever a document says

_texts = st.text(max_size=8)
_PATHS = ("/", "/a", "/a/", "/a/{id}", "/a/{x}/{x}", "/auth/me", "/{a}.{b}", "/_gateway/health", "/a b", "/..", "/%zz")
_path = st.one_of(st.sampled_from(_PATHS), _texts.map(lambda text: f"/{text}"))
_scopes = st.lists(st.one_of(st.sampled_from(["a", "b", "null", "1"]), st.text(min_size=1, max_size=6)), max_size=3)
_security = st.lists(st.dictionaries(st.sampled_from([*SCHEMES, "gone"]), _scopes, max_size=2), max_size=3)
_operation = st.fixed_dictionaries({}, optional={"operationId": _texts, "security": _security})
_item = st.dictionaries(st.sampled_from(["get", "head", "put", "delete", "options"]), _operation, max_size=3)
_documents = st.builds(document, st.dictionaries(_path, _item, max_size=5))


def made(folder: Path, content: dict[str, Any]) -> tuple[Spec, Configuration]:
    (folder / "spec.json").write_text(json.dumps(content))
    spec = read_spec(folder / "spec.json")
    (folder / "draft.yaml").write_text(as_yaml(draft(spec), spec=spec, upstream="shop"))
    return spec, load_configuration(folder / "draft.yaml", {})


@given(content=st.builds(lambda operation: document({"/a": {"get": operation}}), _operation))
def test_every_draft_asks_no_less_than_the_document(
    tmp_path_factory: pytest.TempPathFactory, content: dict[str, Any]
) -> None:
    spec, configuration = made(tmp_path_factory.mktemp("draft"), content)
    asks = spec.operations[0].asks
    access = AccessRules(configuration.settings.roles).of(configuration.policy.routes[0])
    assert not access.everybody or asks.anonymous
    for roles in (frozenset[str](), frozenset({"a"}), frozenset({"b"}), frozenset({"a", "b"})):
        may = not asks.alternatives or any(scopes <= roles for scopes in asks.alternatives)
        assert not access.admits(Caller(roles=roles)) or may or asks.anonymous


@given(content=_documents)
def test_a_draft_covers_its_document(tmp_path_factory: pytest.TempPathFactory, content: dict[str, Any]) -> None:
    spec, configuration = made(tmp_path_factory.mktemp("draft"), content)
    found = coverage(configuration.policy, spec)
    remarks = draft(spec).remarks
    assert found.without_operation == ()
    assert all(any(remark.startswith(f"{each} is left out") for remark in remarks) for each in found.without_rule)


# ---- gateway check --openapi

COVERED = """\
upstreams: {shop: http://127.0.0.1:9000}
routes:
  - {path: /articles/**, methods: [GET], auth: none, upstream: shop}
  - {path: "/users/me", upstream: shop}
"""
COVERED_SPEC = document({"/articles/{id}": {"get": {}}, "/users/{id}": {"get": {}}})


def check(folder: Path, text: str, content: dict[str, Any], *options: str) -> Outcome:
    (folder / "g.yaml").write_text(text)
    (folder / "spec.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return run_here("check", "--config", "g.yaml", "--openapi", "spec.yaml", *options, folder=folder)


def test_operations_without_a_rule_and_rules_without_an_operation_are_named(tmp_path: Path) -> None:
    text = COVERED + "  - {path: /old/**, upstream: shop, name: old}\n"
    content = document(
        {**COVERED_SPEC["paths"], "/new": {"post": {"operationId": "create"}}, "/articles/x": {"put": {}}}
    )
    outcome = check(tmp_path, text, content)
    assert outcome.code == 1
    assert outcome.out.splitlines()[:4] == [
        "spec.yaml: GET /users/{id}: no rule serves it",
        "spec.yaml: POST /new (create): no rule serves it",
        "spec.yaml: PUT /articles/x: no rule serves it",
        "g.yaml:5:5: route 'old' serves no operation of spec.yaml",
    ]
    assert json.loads(check(tmp_path, text, content, "--json").out)["openapi"] == {
        "operations_without_rule": [
            {"method": "GET", "path": "/users/{id}", "operation_id": None},
            {"method": "POST", "path": "/new", "operation_id": "create"},
            {"method": "PUT", "path": "/articles/x", "operation_id": None},
        ],
        "rules_without_operation": [{"route": "old", "line": 5}],
    }


def test_a_policy_that_covers_the_document_is_fine(tmp_path: Path) -> None:
    text = COVERED.replace("/users/me", "/users/{user_id}")
    outcome = check(tmp_path, text, COVERED_SPEC)
    assert outcome.code == 0
    assert outcome.out.startswith("g.yaml: fine, 2 routes")
    assert json.loads(check(tmp_path, text, COVERED_SPEC, "--json").out)["openapi"] == {
        "operations_without_rule": [],
        "rules_without_operation": [],
    }


def test_a_rule_of_any_host_serves_an_operation_and_a_shadow_rule_none(tmp_path: Path) -> None:
    hosted = COVERED.replace("/users/me", "/users/{user_id}").replace("upstream: shop}", "upstream: shop, KEY}")
    assert check(tmp_path, hosted.replace("KEY", "host: a.example"), COVERED_SPEC).code == 0
    assert check(tmp_path, hosted.replace("KEY", "shadow: true"), COVERED_SPEC).code == 1
