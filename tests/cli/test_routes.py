"""`gateway routes from-openapi` and `gateway check --openapi`: valid drafts, and operations that are left out."""

import json
import re
from collections.abc import Iterable
from itertools import chain, product
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from gateway.analysis.access import AccessRules, CallerKind
from gateway.analysis.lint import lint
from gateway.analysis.openapi.coverage import coverage
from gateway.analysis.openapi.draft import as_yaml, draft
from gateway.analysis.openapi.spec import Spec, read_spec
from gateway.errors import Refusal
from gateway.policy.loader import Configuration, load_configuration
from gateway.wire.paths import canonical_target
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


def drafted_from(source: Path) -> Outcome:
    return run_here("routes", "from-openapi", source.name, "--upstream", "shop", folder=source.parent)


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
def test_security_becomes_the_requirement_of_the_route(tmp_path: Path, security: Any, asked: dict[str, Any]) -> None:
    operation = {} if security is None else {"security": security}
    route = only_route(tmp_path, operation)
    assert {key: route[key] for key in ("auth", "roles") if key in route} == asked
    assert route | asked == {"path": "/a", "methods": ["GET"], "upstream": "shop", **asked}


def test_requirements_of_the_document_hold_for_operations_without_their_own(tmp_path: Path) -> None:
    security = [{"oauth": ["staff"]}]
    assert only_route(tmp_path, {}, security=security)["roles"] == ["staff"]
    assert only_route(tmp_path, {"security": []}, security=security)["auth"] == "none"


PATHS = {
    "/a/{id}": ("/a/{id}", ""),
    "/a/{user.id}": ("/a/{user_id}", "{user.id} is renamed to {user_id}"),
    "/a/{id}.json": ("/a/{id}", "the whole segment is matched, not only {id}.json"),
    "/a/{x}-{y}/{x}": ("/a/{x_y}/{x}", "the whole segment is matched, not only {x}-{y}"),
    "/a/{x}/{x}": ("/a/{x}/{x_}", "{x} is renamed to {x_}"),
    "/a/{1}": ("/a/{_1}", "{1} is renamed to {_1}"),
    "/é": ("/%C3%A9", ""),
    "/files/**": ("/files/%2A%2A", ""),
}


@pytest.mark.parametrize(("template", "expected"), PATHS.items(), ids=PATHS)
def test_a_path_template_becomes_a_pattern(tmp_path: Path, template: str, expected: tuple[str, str]) -> None:
    outcome = drafted(tmp_path, {template: {"get": {}}})
    (route,) = yaml.safe_load(outcome.out)["routes"]
    assert route["path"] == expected[0]
    assert expected[1] in outcome.err
    assert ("warning" in outcome.err) == bool(expected[1])
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
def test_the_first_server_determines_the_base_path_and_the_address(
    tmp_path: Path, servers: list[Any], path: str, address: str
) -> None:
    configuration = yaml.safe_load(drafted(tmp_path, {"/a": {"get": {}}}, servers=servers).out)
    assert configuration["routes"][0]["path"] == path
    assert configuration["upstreams"] == {"shop": address}


def warnings(outcome: Outcome) -> list[str]:
    return [line.removeprefix("gateway: warning: ") for line in outcome.err.splitlines() if "warning: " in line]


def test_an_operation_without_a_possible_route_is_left_out_with_a_warning(tmp_path: Path) -> None:
    paths = {
        "/auth/login": {"post": {"operationId": "login"}},
        "/b#/x": {"get": {}},
        "/c": {"$ref": "other.yaml#/paths/~1c"},
        "m": {"get": {}},
        "x-notes": {"get": {}},
        "/a": {"get": {}},
    }
    outcome = drafted(tmp_path, paths, servers=[{"url": "/base/"}])
    assert [route["path"] for route in yaml.safe_load(outcome.out)["routes"]] == ["/base/auth/login", "/base/a"]
    assert warnings(outcome) == [
        "m is left out: a path begins with '/'",
        "/base/c is left out: it refers to other.yaml#/paths/~1c, outside this document",
        "GET /base/b#/x is left out: its path must not hold a query or a fragment",
    ]
    own = warnings(drafted(tmp_path, {"/auth/login": {"post": {"operationId": "login"}}}))
    assert own == ["POST /auth/login (login) is left out: /auth/login is a built-in endpoint"]


ADMIN = {"security": [{"oauth": ["admin"]}]}
UNREADABLE: dict[str, tuple[Any, str]] = {
    "an external reference": ({"$ref": "ops.yaml#/list"}, "it refers to ops.yaml#/list, outside this document"),
    "an address": (
        {"$ref": "https://x.example/a.yaml"},
        "it refers to https://x.example/a.yaml, outside this document",
    ),
    "a dangling reference": ({"$ref": "#/components/gone"}, "it refers to #/components/gone, which does not exist"),
    "a reference that is a number": ({"$ref": 7}, "it refers to 7, outside this document"),
    "a reference that is null": ({"$ref": None}, "it refers to None, outside this document"),
    "a circle": ({"$ref": "#/components/x/one"}, "#/components/x/one refers to itself"),
    "more beside a reference": ({"$ref": "#/components/x/open", "security": [{"oauth": []}]}, "it has security beside"),
    "null": (None, "it is null, not a mapping"),
    "a text": ("list", "it is 'list', not a mapping"),
    "a list": ([ADMIN], "it is a list of other values, not a mapping"),
    "security: null": ({"security": None}, "its security is null"),
    "security: [bearerAuth]": ({"security": ["tokens"]}, "its security is a list of other values"),
    "security: {bearerAuth: []}": ({"security": {"tokens": []}}, "its security is a mapping"),
    "security: bearerAuth": ({"security": "tokens"}, "its security is 'tokens'"),
    "security: false": ({"security": False}, "its security is 'False'"),
    "a null beside a scheme": ({"security": [{"oauth": ["a"]}, None]}, "its security is a list of other values"),
    "scopes: admin": ({"security": [{"oauth": "admin"}]}, "the scopes of oauth are 'admin'"),
    "scopes: null": ({"security": [{"oauth": None}]}, "the scopes of oauth are null"),
    "scopes: {admin: true}": ({"security": [{"oauth": {"admin": True}}]}, "the scopes of oauth are a mapping"),
    "a scope that is a number": ({"security": [{"oauth": [1]}]}, "the scope 1 of oauth is not printable text"),
    "a scope with a space around it": (
        {"security": [{"oauth": ["a "]}]},
        "the scope 'a ' of oauth must be a role name",
    ),
    "a scope too long": (
        {"security": [{"oauth": ["a" * 129]}]},
        f"the scope {'a' * 129!r} of oauth must be a role name",
    ),
    "an empty scope": ({"security": [{"oauth": [""]}]}, "the scope '' of oauth is not printable text"),
    "servers that are a text": ({"servers": "https://x.example"}, "its servers are 'https://x.example'"),
    "security under a misspelt key": ({"Security": ADMIN["security"]}, "its key Security is not known (security)"),
    "securities": ({"security": [], "securities": ADMIN["security"]}, "its key securities is not known (security)"),
    "a server with a variable without a default": (
        {"servers": [{"url": "/{base}", "variables": {"base": {"enum": ["v1"]}}}]},
        "its server /{base} has a variable without a default",
    ),
    "a server relative to the document": ({"servers": [{"url": "v1"}]}, "its server v1 is relative"),
}


@pytest.mark.parametrize(("operation", "why"), UNREADABLE.values(), ids=UNREADABLE)
def test_an_operation_that_cannot_be_read_exactly_is_left_out(tmp_path: Path, operation: Any, why: str) -> None:
    one, two = {"$ref": "#/components/x/two"}, {"$ref": "#/components/x/one"}
    components = {"securitySchemes": SCHEMES, "x": {"one": one, "two": two, "open": {}}}
    outcome = drafted(tmp_path, {"/a": {"get": operation, "put": ADMIN}}, components=components)
    (warning,) = warnings(outcome)
    assert warning.startswith(f"GET /a is left out: {why}")
    assert [route["methods"] for route in yaml.safe_load(outcome.out)["routes"]] == [["PUT"]]
    assert outcome.err.splitlines()[-1] == "gateway: routes: 1 by role; 1 left out"


@pytest.mark.parametrize("security", [None, ["tokens"], {"tokens": []}, "tokens", [{"oauth": "admin"}]])
def test_operations_inherit_security_that_cannot_be_read(tmp_path: Path, security: Any) -> None:
    outcome = drafted(tmp_path, {"/a": {"get": {}, "put": ADMIN}}, security=security)
    assert [route["methods"] for route in yaml.safe_load(outcome.out)["routes"]] == [["PUT"]]
    assert warnings(outcome)[0].startswith("GET /a is left out: ")


@pytest.mark.parametrize("item", [None, "x", [], {"$ref": "#/paths/~1b"}, {"$ref": "#/paths/~1a"}])
def test_a_path_item_that_cannot_be_read_is_left_out(tmp_path: Path, item: Any) -> None:
    outcome = drafted(tmp_path, {"/a": item, "/c": {"put": ADMIN}})
    assert [route["path"] for route in yaml.safe_load(outcome.out)["routes"]] == ["/c"]
    assert warnings(outcome)[0].startswith("/a is left out: ")


def test_operations_beside_a_reference_of_their_path_are_left_out(tmp_path: Path) -> None:
    components = {"securitySchemes": SCHEMES, "pathItems": {"a": {"get": ADMIN}}}
    outcome = drafted(tmp_path, {"/a": {"$ref": "#/components/pathItems/a", "get": {}}}, components=components)
    assert yaml.safe_load(outcome.out)["routes"] == []
    assert warnings(outcome) == ["/a is left out: it has get beside its $ref"]


@pytest.mark.parametrize("key", ["GET", "Get", "query", "additionalOperations"])
def test_an_operation_of_an_unknown_method_is_left_out_with_a_warning(tmp_path: Path, key: str) -> None:
    outcome = drafted(tmp_path, {"/a": {key: {}, "put": ADMIN, "parameters": [], "x-owner": {}}})
    assert warnings(outcome)[0].startswith(f"/a is left out: its key {key} is none of get, head, ")
    assert yaml.safe_load(outcome.out)["routes"] == []


@pytest.mark.parametrize("key", ["security", "Security", "securityRequirements"])
def test_security_at_a_path_leaves_out_the_operations_without_their_own(tmp_path: Path, key: str) -> None:
    outcome = drafted(tmp_path, {"/a": {key: ADMIN["security"], "get": {}, "put": ADMIN}})
    assert warnings(outcome) == [
        f"GET /a is left out: the {key} of its path has no meaning (security in the operation)"
    ]
    assert [route["methods"] for route in yaml.safe_load(outcome.out)["routes"]] == [["PUT"]]


def test_a_misspelt_security_of_the_document_leaves_out_the_operations_that_would_inherit_it(tmp_path: Path) -> None:
    outcome = drafted(tmp_path, {"/a": {"get": {}, "put": ADMIN}}, Security=ADMIN["security"])
    assert warnings(outcome) == ["GET /a is left out: the key Security of the document is not known (security)"]


REPEATED = {
    "a path": """/a: {get: {security: [{oauth: [admin]}]}}
  /a: {get: {security: []}}""",
    "an operation": "/a: {get: {security: [{oauth: [admin]}]}, get: {security: []}}",
    "security": "/a: {get: {security: [{oauth: [admin]}], security: []}}",
    "a scheme": "/a: {get: {security: [{oauth: [admin], oauth: []}]}}",
    "a server": "/a: {get: {servers: [{url: /admin}], servers: [], security: []}}",
    "the address of a server": "/a: {get: {servers: [{url: /admin, url: /v1}], security: []}}",
}


@pytest.mark.parametrize("paths", REPEATED.values(), ids=REPEATED)
def test_an_operation_below_a_repeated_key_is_left_out(tmp_path: Path, paths: str) -> None:
    source = tmp_path / "spec.yaml"
    source.write_text(f"openapi: 3.0.0\npaths:\n  {paths}\n")
    outcome = drafted_from(source)
    assert yaml.safe_load(outcome.out)["routes"] == []
    assert "/a is left out: " in outcome.err


def test_an_operation_below_a_repeated_key_of_json_is_left_out(tmp_path: Path) -> None:
    source = tmp_path / "spec.json"
    source.write_text(
        '{"openapi": "3.0.0", "paths": {"/a": {"get": {"security": [{"o": ["admin"]}], "security": []}}}}'
    )
    outcome = drafted_from(source)
    assert yaml.safe_load(outcome.out)["routes"] == []
    assert warnings(outcome)[0].startswith("GET /a is left out: its security is 'the value of a repeated key'")


def test_a_key_that_overrides_one_of_a_merged_mapping_is_no_repetition(tmp_path: Path) -> None:
    source = tmp_path / "spec.yaml"
    source.write_text(
        "openapi: 3.0.0\nx-base: &base {security: []}\nx-admin: &admin {<<: *base, security: [{oauth: [admin]}]}\n"
        "paths:\n  /a: {get: *admin}\n  /b: {get: {<<: *admin}}\n"
    )
    outcome = drafted_from(source)
    assert [route["roles"] for route in yaml.safe_load(outcome.out)["routes"]] == [["admin"], ["admin"]]


def test_a_repeated_key_of_a_merged_mapping_is_a_repetition(tmp_path: Path) -> None:
    source = tmp_path / "spec.yaml"
    source.write_text(
        "openapi: 3.0.0\nx-admin: &admin {security: [{oauth: [admin]}], security: []}\n"
        "paths:\n  /a: {get: {<<: *admin}}\n"
    )
    outcome = drafted_from(source)
    assert yaml.safe_load(outcome.out)["routes"] == []


@pytest.mark.parametrize("unknown", [{"gone": []}, {"far": []}])
def test_an_alternative_of_an_unknown_scheme_does_not_open_a_route(tmp_path: Path, unknown: dict[str, Any]) -> None:
    components = {"securitySchemes": {**SCHEMES, "far": {"$ref": "schemes.yaml#/far"}}}
    operation = {"security": [{"oauth": ["admin"]}, unknown]}
    outcome = drafted(tmp_path, {"/a": {"get": operation}}, components=components)
    assert yaml.safe_load(outcome.out)["routes"][0]["roles"] == ["admin"]
    (name,) = unknown
    assert f"the security scheme {name} is not defined: only its scopes count" in outcome.err


def test_the_scopes_of_a_scheme_that_refers_nowhere_are_required(tmp_path: Path) -> None:
    components = {"securitySchemes": {"far": {"$ref": "schemes.yaml#/far"}}}
    outcome = drafted(tmp_path, {"/a": {"get": {"security": [{"far": ["staff"]}]}}}, components=components)
    assert yaml.safe_load(outcome.out)["routes"][0]["roles"] == ["staff"]
    assert "the security scheme far cannot be read: it refers to schemes.yaml#/far" in outcome.err


@pytest.mark.parametrize("scheme", ["key", "basic"])
def test_a_role_of_a_scheme_that_is_not_checked_here_is_asked_for(tmp_path: Path, scheme: str) -> None:
    assert only_route(tmp_path, {"security": [{scheme: ["admin"]}]})["roles"] == ["admin"]


def test_http_basic_is_reported_not_to_reach_the_upstream(tmp_path: Path) -> None:
    outcome = drafted(tmp_path, {"/a": {"get": {"security": [{"basic": []}]}}})
    assert "basic (http basic) does not reach the upstream: clients send a token of the gateway" in outcome.err
    assert "auth" not in yaml.safe_load(outcome.out)["routes"][0]


# ---- operations that share a rule

USER: dict[str, Any] = {"security": [{"tokens": []}]}
SHARED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "a custom verb": ({"/things/{id}": {"post": USER}, "/things/{id}:purge": {"post": ADMIN}}, {"roles": ["admin"]}),
    "an open custom verb": ({"/things/{id}": {"post": ADMIN}, "/things/{id}:open": {"post": {}}}, {"roles": ["admin"]}),
    "an extension": ({"/files/{id}": {"post": {}}, "/files/{id}.csv": {"post": ADMIN}}, {"roles": ["admin"]}),
    "a trailing slash": ({"/a": {"post": {}}, "/a/": {"post": ADMIN}}, {"roles": ["admin"]}),
    "another name": ({"/a/{x}": {"post": USER}, "/a/{y}": {"post": {}}}, {}),
    "optional and required": (
        {"/a": {"post": {"security": [{}, {"oauth": ["b"]}]}}, "/a/": {"post": USER}},
        {},
    ),
    "both optional": (
        {"/a": {"post": {"security": [{}, {"tokens": []}]}}, "/a/": {"post": {}}},
        {"auth": "optional"},
    ),
    "two roles": (
        {"/a": {"post": {"security": [{"oauth": ["b"]}]}}, "/a/": {"post": ADMIN}},
        {"roles": {"all": ["admin", "b"]}},
    ),
    "a query": ({"/a": {"post": {}}, "/a?beta=true": {"post": ADMIN}}, {"roles": ["admin"]}),
    "a query of the first": ({"/a?beta=true": {"post": ADMIN}, "/a": {"post": {}}}, {"roles": ["admin"]}),
    "a fragment": ({"/a": {"post": USER}, "/a#rename": {"post": ADMIN}}, {"roles": ["admin"]}),
    "a fragment with a path": ({"/t/{id}": {"post": {}}, "/t/{id}#/purge": {"post": ADMIN}}, {"roles": ["admin"]}),
    "a query behind a slash": ({"/a/": {"post": {}}, "/a/?{query}": {"post": USER}}, {}),
    "alternatives": (
        {
            "/a": {"post": {"security": [{"oauth": ["b"]}, {"oauth": ["c"]}]}},
            "/a/": {"post": {"security": [{"oauth": ["b"]}, {"oauth": ["c"]}]}},
        },
        {"roles": ["b", "c"]},
    ),
    "three": ({"/a": {"post": {}}, "/a/": {"post": USER}, "/%61": {"post": ADMIN}}, {"roles": ["admin"]}),
}


@pytest.mark.parametrize(("paths", "asked"), SHARED.values(), ids=SHARED)
def test_operations_that_share_a_rule_take_the_stricter_side(
    tmp_path: Path, paths: dict[str, Any], asked: dict[str, Any]
) -> None:
    outcome = drafted(tmp_path, paths)
    (route,) = yaml.safe_load(outcome.out)["routes"]
    assert {key: route[key] for key in ("auth", "roles") if key in route} == asked
    assert outcome.err.count("share a rule, which requires the security of both") == len(paths) - 1


@pytest.mark.parametrize("methods", [("get", "head"), ("head", "get")])
def test_a_head_operation_shares_the_rule_of_get(tmp_path: Path, methods: tuple[str, str]) -> None:
    outcome = drafted(tmp_path, {"/a": {methods[0]: {}, methods[1]: ADMIN}})
    (route,) = yaml.safe_load(outcome.out)["routes"]
    assert (route["methods"], route["roles"]) == (["GET"], ["admin"])


def test_a_scope_called_as_a_default_role_is_not_given_to_every_new_account(tmp_path: Path) -> None:
    (tmp_path / "spec.json").write_text(json.dumps(document({"/a": {"get": {"security": [{"oauth": ["user"]}]}}})))
    _, configuration = made(tmp_path, json.loads((tmp_path / "spec.json").read_text()))
    assert configuration.settings.accounts.default_roles == ()
    assert "default_roles" not in drafted(tmp_path, {"/a": {"get": ADMIN}}).out


# ---- operations that a broader rule would serve

LEFT_OUT: dict[str, Any] = {
    "an operation that cannot be read": {"get": {"$ref": "far.yaml"}},
    "a path that cannot be read": {"$ref": "far.yaml"},
    "a method that is not known": {"additionalOperations": {}},
}


@pytest.mark.parametrize("item", LEFT_OUT.values(), ids=LEFT_OUT)
def test_a_broader_rule_does_not_serve_an_operation_that_is_left_out(tmp_path: Path, item: Any) -> None:
    paths = {"/users/{id}": {"get": {}, "put": ADMIN}, "/users/me": item, "/users/{id}/keys": {"get": {}}}
    _, configuration = made(tmp_path, document(paths))
    route, _ = configuration.policy.match(None, canonical_target(b"/users/me", relaxed=False), b"GET")
    assert route.requirement.any == frozenset({"left-out"})
    assert warnings(drafted(tmp_path, paths))[-1].endswith(
        "closed, because an operation here is left out: no account holds the role left-out"
    )


def test_a_broader_rule_does_not_serve_an_operation_that_only_a_query_distinguishes(tmp_path: Path) -> None:
    paths = {"/users/{id}": {"get": {}, "put": {}}, "/users/me?full={full}": {"get": ADMIN}}
    _, configuration = made(tmp_path, document(paths))
    route, _ = configuration.policy.match(None, canonical_target(b"/users/me?full=1", relaxed=False), b"GET")
    assert route.requirement.any == frozenset({"left-out"})


def test_a_question_mark_in_the_name_of_a_parameter_begins_no_query(tmp_path: Path) -> None:
    assert only_route(tmp_path, {}, "/a/{id?}/{#x}")["path"] == "/a/{id_}/{_x}"


def test_no_closed_rule_is_drafted_where_no_rule_would_serve_the_operation(tmp_path: Path) -> None:
    outcome = drafted(tmp_path, {"/users/{id}": {"put": ADMIN}, "/users/me": {"get": {"$ref": "far.yaml"}}})
    assert [route["path"] for route in yaml.safe_load(outcome.out)["routes"]] == ["/users/{id}"]


@pytest.mark.parametrize("other", [{"get": {"$ref": "far.yaml"}}, {"$ref": "far.yaml"}, {"head": {"security": None}}])
def test_operations_that_share_a_path_with_one_that_is_left_out_are_left_out(tmp_path: Path, other: Any) -> None:
    outcome = drafted(tmp_path, {"/t/{id}": {"get": {}}, "/t/{id}:purge": other, "/b": {"get": ADMIN}})
    assert [route["path"] for route in yaml.safe_load(outcome.out)["routes"]] == ["/b"]
    assert "GET /t/{id} is left out: another operation at this path cannot be read" in outcome.err


def test_the_role_of_closed_rules_is_no_scope(tmp_path: Path) -> None:
    scoped = {"security": [{"oauth": ["left-out"]}]}
    _, configuration = made(tmp_path, document({"/{id}": {"get": scoped}, "/me": {"get": {"$ref": "far.yaml"}}}))
    route, _ = configuration.policy.match(None, canonical_target(b"/me", relaxed=False), b"GET")
    assert route.requirement.any == frozenset({"left-out-"})


# ---- servers

API = "https://api.example.com"


def test_an_operation_that_another_server_serves_is_left_out(tmp_path: Path) -> None:
    uploads = [{"url": "https://uploads.example.com/v1"}]
    paths = {"/a": {"get": {}}, "/b": {"servers": uploads, "get": {}, "put": {"servers": [{"url": f"{API}/v2"}]}}}
    outcome = drafted(tmp_path, paths, servers=[{"url": API}])
    assert [route["path"] for route in yaml.safe_load(outcome.out)["routes"]] == ["/a", "/v2/b"]
    assert warnings(outcome) == ["GET /v1/b is left out: another server serves it, https://uploads.example.com"]


def test_the_server_of_most_operations_is_the_upstream_where_the_document_names_none(tmp_path: Path) -> None:
    here, there = [{"url": API}], [{"url": "https://old.example.com"}]
    paths = {f"/{n}": {"get": {}, "servers": there if n == 1 else here} for n in range(3)}
    configuration = yaml.safe_load(drafted(tmp_path, paths).out)
    assert configuration["upstreams"] == {"shop": API}
    assert [route["path"] for route in configuration["routes"]] == ["/0", "/2"]


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("https://", "its own server has no address"),
        ("//api.example.com/v1", "its own server has no address"),
        ("http://api.example.com:99999", "its own server has no address"),
        ("mailto:x", "its server mailto:x is relative"),
        ("http://[x", "its server http://[x is no URL"),
    ],
)
def test_an_operation_with_a_server_that_is_none_is_left_out(tmp_path: Path, url: str, why: str) -> None:
    outcome = drafted(tmp_path, {"/a": {"get": {}, "put": {"servers": [{"url": url}]}}})
    assert warnings(outcome)[0].startswith(f"PUT /a is left out: {why}")
    assert [route["methods"] for route in yaml.safe_load(outcome.out)["routes"]] == [["GET"]]


# ---- accounts


@pytest.mark.parametrize(
    ("operation", "registration"),
    [
        ({"security": [{"tokens": []}]}, "closed"),
        ({"security": [{"key": []}]}, "closed"),
        ({"security": [{"oauth": ["a"]}]}, "open"),
        ({}, "open"),
    ],
)
def test_strangers_cannot_register_where_any_account_passes(
    tmp_path: Path, operation: dict[str, Any], registration: str
) -> None:
    _, configuration = made(tmp_path, document({"/a": {"get": operation}}))
    assert configuration.settings.accounts.registration == registration
    assert [each.code for each in lint(configuration)] == []


# ---- the summary


def test_the_summary_counts_the_routes_by_how_open_they_are(tmp_path: Path) -> None:
    security: list[Any] = [[], [{}, {"tokens": []}], [{"tokens": []}], [{"oauth": ["a"]}], [{"key": []}], None]
    paths = {f"/{number}": {"get": {"security": each}} for number, each in enumerate(security)}
    outcome = drafted(tmp_path, paths)
    assert outcome.code == 0
    assert outcome.err.splitlines()[-1] == (
        "gateway: routes: 1 open to everyone, 1 open, with identity, 2 any signed-in user, 1 by role; 1 left out"
    )


@pytest.mark.parametrize(("security", "code"), [([], 1), ([{}, {"tokens": []}], 1), ([{"tokens": []}], 0)])
def test_require_security_fails_where_a_route_is_open(tmp_path: Path, security: Any, code: int) -> None:
    (tmp_path / "spec.json").write_text(json.dumps(document({"/a": {"get": {"security": security}}})))
    command = ("routes", "from-openapi", "spec.json", "--upstream", "shop", "--require-security")
    outcome = run_here(*command, folder=tmp_path)
    assert outcome.code == code
    assert ("GET /a is open" in outcome.err) == bool(code)
    assert yaml.safe_load(outcome.out)["routes"]


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
def test_a_file_that_is_no_document_is_one_line(tmp_path: Path, text: str) -> None:
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


# ---- arbitrary documents

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


_SHARING = (
    "/a",
    "/a/",
    "/a?x",
    "/a#x",
    "/{any}?x",
    "/t/{id}#/x",
    "/t/{id}",
    "/t/{name}",
    "/t/{id}:purge",
    "/t/{id}.csv",
    "/t/fixed",
)
_shared_items = st.dictionaries(st.sampled_from(["get", "head", "post"]), _operation, min_size=1, max_size=3)
_shared_documents = st.builds(document, st.dictionaries(st.sampled_from(_SHARING), _shared_items, max_size=5))
_CALLERS = [frozenset[str](), *map(frozenset, (["a"], ["b"], ["a", "b"], ["null"], ["1"], ["a", "b", "null", "1"]))]


def admits(security: list[dict[str, list[str]]], roles: frozenset[str] | None) -> bool:
    """Evaluate the security of an operation by the specification. `roles` is None for a caller without a token."""
    if not security or {} in security:
        return True
    return roles is not None and any(roles.issuperset(chain(*each.values())) for each in security)


@given(content=_shared_documents)
def test_no_caller_reaches_an_operation_that_the_document_closes_to_it(
    tmp_path_factory: pytest.TempPathFactory, content: dict[str, Any]
) -> None:
    _, configuration = made(tmp_path_factory.mktemp("draft"), content)
    access = AccessRules(configuration.settings.roles)
    for template, item in content["paths"].items():
        path = re.sub(r"\{.*?\}", "7", template).partition("#")[0]
        for method, operation in item.items():
            try:
                route, _ = configuration.policy.match(
                    None, canonical_target(path.encode(), relaxed=False), method.upper().encode()
                )
            except Refusal:
                continue
            rules = access.of(route)
            assert not rules.is_public or admits(operation.get("security", []), None)
            for roles in _CALLERS:
                assert not rules.admits(CallerKind(roles=roles)) or admits(operation.get("security", []), roles)


_CROSSING = ("/a/{x}", "/{y}/b", "/a/b", "/{x}/{y}", "/a/{x}/c", "/{y}/b/c", "/a/b/{z}", "/{x}/{y}/c")
_crossing_items = st.dictionaries(st.sampled_from(["get", "post"]), _operation, min_size=1, max_size=2)
_one_item = st.sampled_from([{"$ref": "far.yaml"}, {"get": {"$ref": "far.yaml"}}])
_crossing_documents = st.builds(
    document, st.dictionaries(st.sampled_from(_CROSSING), st.one_of(_crossing_items, _one_item), max_size=6)
)
_REQUESTS = ["/" + "/".join(parts) for parts in (*product("ab7", "ab7"), *product("ab7", "ab7", "c7"))]


def matching(path: str, templates: Iterable[str]) -> list[str]:
    """The templates of a path, without those that have a more concrete one among them."""
    fits = [each for each in templates if re.fullmatch(re.sub(r"\{.*?\}", "[^/]+", each), path)]
    parameters = {each: {n for n, part in enumerate(each.split("/")) if part.startswith("{")} for each in fits}
    return [each for each in fits if not any(parameters[other] < parameters[each] for other in fits)]


@given(content=_crossing_documents)
def test_a_request_that_two_templates_match_meets_the_requirements_of_both(
    tmp_path_factory: pytest.TempPathFactory, content: dict[str, Any]
) -> None:
    _, configuration = made(tmp_path_factory.mktemp("draft"), content)
    access = AccessRules(configuration.settings.roles)
    for path, method in product(_REQUESTS, ("get", "post")):
        try:
            route, _ = configuration.policy.match(
                None, canonical_target(path.encode(), relaxed=False), method.upper().encode()
            )
        except Refusal:
            continue
        rules = access.of(route)
        for item in (content["paths"][template] for template in matching(path, content["paths"])):
            if method not in item and "$ref" not in item:
                continue
            operation = item.get(method, item)
            is_known = "$ref" not in operation
            assert not rules.is_public or (is_known and admits(operation.get("security", []), None))
            for roles in _CALLERS:
                assert not rules.admits(CallerKind(roles=roles)) or (
                    is_known and admits(operation.get("security", []), roles)
                )


def test_the_rule_of_a_crossing_has_a_remark_and_is_omitted_for_equal_requirements(tmp_path: Path) -> None:
    paths = {"/guilds/templates/{code}": {"get": {}}, "/guilds/{id}/audit": {"get": ADMIN, "put": {}}}
    outcome = drafted(tmp_path, paths)
    *_, crossing = yaml.safe_load(outcome.out)["routes"]
    assert crossing == {
        "path": "/guilds/templates/audit",
        "methods": ["GET"],
        "roles": ["admin"],
        "upstream": "shop",
    }
    assert warnings(outcome) == [
        "GET /guilds/templates/audit: several operations match these paths, and the rule requires what all of them "
        "require"
    ]
    same = {template: {"get": ADMIN} for template in paths}
    assert len(yaml.safe_load(drafted(tmp_path, same).out)["routes"]) == 2


def test_a_document_with_too_many_crossings_is_refused_in_one_line(tmp_path: Path) -> None:
    paths: dict[str, Any] = {f"/{kind}": {"get": {}} for n in range(46) for kind in (f"a{n}/{{x}}", f"{{y}}/b{n}")}
    outcome = drafted(tmp_path, paths)
    assert (outcome.code, outcome.out) == (2, "")
    assert "more than 2000 pairs of path templates match the same paths, such as /a" in outcome.err
    assert len(outcome.err.splitlines()) == 1


@given(content=_documents)
def test_a_draft_covers_its_document(tmp_path_factory: pytest.TempPathFactory, content: dict[str, Any]) -> None:
    spec, configuration = made(tmp_path_factory.mktemp("draft"), content)
    found = coverage(configuration.policy, spec)
    remarks = draft(spec).remarks
    assert found.without_operation == ()
    missing = (*found.without_rule, *found.own)
    assert all(any(remark.startswith(f"{each} is left out") for remark in remarks) for each in missing)


# ---- gateway check --openapi

COVERED = """\
accounts: {registration: closed}
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
        "g.yaml:6:5: route 'old' serves no operation of spec.yaml",
    ]
    assert json.loads(check(tmp_path, text, content, "--json").out)["openapi"] == {
        "operations_without_rule": [
            {"method": "GET", "path": "/users/{id}", "operation_id": None},
            {"method": "POST", "path": "/new", "operation_id": "create"},
            {"method": "PUT", "path": "/articles/x", "operation_id": None},
        ],
        "operations_at_own_paths": [],
        "unreadable_paths": [],
        "rules_without_operation": [{"route": "old", "line": 6}],
    }


def test_a_policy_that_covers_the_document_is_fine(tmp_path: Path) -> None:
    text = COVERED.replace("/users/me", "/users/{user_id}")
    outcome = check(tmp_path, text, COVERED_SPEC)
    assert outcome.code == 0
    assert outcome.out.startswith("g.yaml: fine, 2 routes")
    assert json.loads(check(tmp_path, text, COVERED_SPEC, "--json").out)["openapi"] == {
        "operations_without_rule": [],
        "operations_at_own_paths": [],
        "unreadable_paths": [],
        "rules_without_operation": [],
    }


def test_a_rule_of_any_host_serves_an_operation_and_a_shadow_rule_none(tmp_path: Path) -> None:
    hosted = COVERED.replace("/users/me", "/users/{user_id}").replace("upstream: shop}", "upstream: shop, KEY}")
    assert check(tmp_path, hosted.replace("KEY", "host: a.example"), COVERED_SPEC).code == 0
    assert check(tmp_path, hosted.replace("KEY", "shadow: true"), COVERED_SPEC).code == 1


def test_an_operation_at_an_own_path_is_no_operation_of_the_api(tmp_path: Path) -> None:
    text = COVERED.replace("/users/me", "/users/{user_id}")
    content = document(
        {
            **COVERED_SPEC["paths"],
            "/far": {"$ref": "far.yaml"},
            "/auth/login": {"post": {"operationId": "login"}},
            "/_gateway/docs": {"get": {}},
        }
    )
    outcome = check(tmp_path, text, content)
    assert outcome.code == 1
    assert outcome.out.splitlines()[:3] == [
        "spec.yaml: POST /auth/login (login): the gateway answers this path itself",
        "spec.yaml: GET /_gateway/docs: the gateway answers this path itself",
        "spec.yaml: /far: cannot be compared: it refers to far.yaml, outside this document",
    ]
    own = json.loads(check(tmp_path, text, content, "--json").out)["openapi"]["operations_at_own_paths"]
    assert [each["path"] for each in own] == ["/auth/login", "/_gateway/docs"]
