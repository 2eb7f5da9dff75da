"""The OpenAPI document of the built-in endpoints and its HTML page: correct, complete and safe."""

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import MISSING, fields, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx
import jsonschema_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.accounts.commands import (
    MAX_KEY_LIFE,
    AcceptedInvitation,
    AccountChange,
    BrowserLogin,
    EmailOnly,
    KeyRequest,
    Login,
    LoginForm,
    NewAccount,
    NewInvitation,
    PasswordChange,
    PasswordProof,
    Refresh,
    Registration,
    ResetByLink,
    Verify,
)
from gateway.accounts.inputs import Body, accept
from gateway.api.openapi.document import described_operations, document, errors_of
from gateway.api.openapi.page import HEADERS, page
from gateway.api.queries import AuditQuery, UserQuery
from gateway.errors import CODES, Refusal
from gateway.policy.builtin_routes import own_routes
from gateway.settings.model import AccountsSettings, ApiKeysSettings, PasswordSettings, ServerSettings, Settings
from tests.accounts.application import application

SETTINGS = Settings()
ROUTES = own_routes(SETTINGS)
DOCUMENT = document(SETTINGS, ROUTES)


# The operations of `openapi.yaml` by endpoint name.
FILE = {
    operation["operationId"]: operation
    for item in described_operations()["paths"].values()
    for operation in item.values()
}


def resolved(schema: dict[str, Any]) -> Any:
    """The component that a reference names."""
    kind, name = schema["$ref"].removeprefix("#/components/").split("/")
    return DOCUMENT["components"][kind][name]


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in DOCUMENT["paths"].items():
        for method, operation in item.items():
            yield path, method, operation


def everything_in(value: Any) -> Iterator[Any]:
    yield value
    if isinstance(value, dict):
        for each in value.values():
            yield from everything_in(each)
    elif isinstance(value, list):
        for each in value:
            yield from everything_in(each)


def test_every_endpoint_that_is_served_is_described_and_no_other() -> None:
    served = {route.name for route in ROUTES if route.is_served}
    assert {operation["operationId"] for _, _, operation in operations()} == served
    # The pages are for people.
    names = {route.name for route in ROUTES if not route.name.startswith("pages.")}
    assert set(FILE) == names, "a description without an endpoint, or the other way round"


def test_an_endpoint_that_is_not_served_is_left_out() -> None:
    settings = replace(SETTINGS, server=ServerSettings(operations_port=9000))
    paths = document(settings, own_routes(settings))["paths"]
    assert "/_gateway/health" not in paths and "/auth/login" in paths


SECURITY: dict[str, list[dict[str, list[str]]]] = {
    "none": [],
    "optional": [{}, {"bearer": []}],
    "required": [{"bearer": []}],
}


def test_the_caption_of_each_matches_its_route() -> None:
    for route in ROUTES:
        if not route.is_served:
            continue
        methods = {method.decode().lower() for method in route.methods or {b"GET"}} - {"head"}
        for method in methods:
            described = DOCUMENT["paths"][route.pattern][method]
            assert described["security"] == SECURITY[route.authentication]
            assert ("401" in described["responses"]) >= (route.authentication != "none")
            assert ("403" in described["responses"]) >= route.requirement.names_roles
            parameters = [resolved(each) if "$ref" in each else each for each in described.get("parameters", [])]
            named = [each["name"] for each in parameters if each["in"] == "path"]
            assert named == re.findall(r"\{(\w+)\}", route.pattern)


def test_the_prefix_of_accounts_is_honoured() -> None:
    for prefix, expected in [("/a/b", "/a/b/login"), ("", "/login")]:
        settings = replace(SETTINGS, accounts=AccountsSettings(prefix=prefix))
        paths = document(settings, own_routes(settings))["paths"]
        assert expected in paths and "/_gateway/health" in paths and "/auth/login" not in paths


def test_every_code_of_every_refusal_is_one_that_there_is() -> None:
    for operation in FILE.values():
        assert set(errors_of(operation)) <= set(CODES)


def test_its_schemas_are_schemas_and_its_references_lead_somewhere() -> None:
    for schema in DOCUMENT["components"]["schemas"].values():
        jsonschema_rs.meta.validate({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema})
    references = [each["$ref"] for each in everything_in(DOCUMENT) if isinstance(each, dict) and "$ref" in each]
    assert references
    for reference in references:
        assert resolved({"$ref": reference})


# The model of each request body and query.
MODELS: dict[str, type[Body]] = {
    "Registration": Registration,
    "Login": Login,
    "BrowserLogin": BrowserLogin,
    "PasswordProof": PasswordProof,
    "LoginForm": LoginForm,
    "Refresh": Refresh,
    "PasswordChange": PasswordChange,
    "KeyRequest": KeyRequest,
    "NewAccount": NewAccount,
    "AccountChange": AccountChange,
    "EmailOnly": EmailOnly,
    "Verify": Verify,
    "ResetByLink": ResetByLink,
    "AcceptedInvitation": AcceptedInvitation,
    "NewInvitation": NewInvitation,
    "admin.users.list": UserQuery,
    "admin.audit": AuditQuery,
}
BODIES = [name for name in MODELS if "." not in name]
VALUES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=100)
LIKELY = st.sampled_from(["ann@example.com", "correct horse battery", 60, 60.0, [], ["user"], ["user", "x"], ""])


def fields_of(model: type[Body]) -> tuple[set[str], set[str]]:
    """The names of all fields, and of the required ones."""
    declared = fields(model)  # type: ignore[arg-type]
    return {each.name for each in declared}, {each.name for each in declared if each.default is MISSING}


@pytest.mark.parametrize("name", MODELS)
def test_the_fields_of_a_body_or_query_are_those_of_its_model(name: str) -> None:
    if name in BODIES:
        schema = DOCUMENT["components"]["schemas"][name]
        described = set(schema["properties"]), set(schema["required"])
        assert schema["additionalProperties"] is False
    else:
        parameters = [each for each in FILE[name]["parameters"] if each.get("in") == "query"]
        described = {each["name"] for each in parameters}, {each["name"] for each in parameters if each["required"]}
    assert described == fields_of(MODELS[name])


def test_every_described_body_has_a_model() -> None:
    bodies = [each["content"] for each in (operation.get("requestBody") for operation in FILE.values()) if each]
    used = {media["schema"]["$ref"].rpartition("/")[2] for content in bodies for media in content.values()}
    # The endpoint of the console reads its form itself.
    assert used == {*BODIES, "ConsoleForm"}


@given(st.sampled_from(BODIES), st.data())
def test_an_accepted_body_satisfies_its_schema(name: str, data: st.DataObject) -> None:
    names = st.sampled_from(sorted(fields_of(MODELS[name])[0]))
    body = data.draw(st.dictionaries(names, LIKELY | VALUES))
    try:
        accept(MODELS[name], body, SETTINGS)
    except Refusal:
        return
    jsonschema_rs.validate({"$ref": f"#/components/schemas/{name}", "components": DOCUMENT["components"]}, body)


def test_limits_of_the_configuration_are_described() -> None:
    accounts = AccountsSettings(password=PasswordSettings(min_length=20), api_keys=ApiKeysSettings(max_ttl=None))
    schemas = document(replace(SETTINGS, accounts=accounts), ROUTES)["components"]["schemas"]
    assert schemas["NewPassword"]["minLength"] == 20
    assert schemas["KeyLifetime"]["maximum"] == MAX_KEY_LIFE and "no expiry" in schemas["KeyLifetime"]["description"]


# ---- the page


class Reading(HTMLParser):
    """The contents of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.ids: list[str] = []
        self.links: set[str] = set()
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            assert not name.startswith("on") and name != "style", f"<{tag} {name}>: the policy of the page forbids it"
            if name == "id":
                self.ids.append(str(value))
            if name in ("href", "src"):
                self.links.add(str(value))
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_shows_every_operation_and_its_links_lead_somewhere() -> None:
    read = Reading(page(DOCUMENT))
    assert read.open == []
    assert {operation["operationId"] for _, _, operation in operations()} <= set(read.ids)
    assert len(set(read.ids)) == len(read.ids)
    assert {link.removeprefix("#") for link in read.links if link.startswith("#")} <= set(read.ids)
    assert {link for link in read.links if not link.startswith("#")} == {"/_gateway/openapi.json"}


def test_the_page_is_whole_in_itself_and_its_policy_lets_nothing_else_in() -> None:
    text = page(DOCUMENT)
    assert Reading(text).tags.isdisjoint({"script", "link", "img", "iframe", "form", "object", "base"})
    style = text.partition("<style>")[2].partition("</style>")[0]
    assert "url(" not in style and "@import" not in style
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = dict(part.strip().split(" ", 1) for part in HEADERS["content-security-policy"].split(";"))
    assert policy == {
        "default-src": "'none'",
        "style-src": f"'sha256-{digest}'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }


def test_nothing_in_the_description_becomes_markup() -> None:
    description = json.loads(json.dumps(DOCUMENT).replace("/auth/login", "/<script>alert(1)</script>&amp;"))
    text = page(description)
    assert "<script>" not in text and "/&lt;script&gt;alert(1)" in text


# ---- serving


async def test_both_are_public(tmp_path: Path) -> None:
    async with application(tmp_path, "sqlite://", prefix="/x") as client:
        described: httpx.Response = await client.get("/_gateway/openapi.json")
        assert (described.status_code, described.headers["content-type"]) == (200, "application/json")
        assert "/x/login" in described.json()["paths"]
        shown = await client.get("/_gateway/docs")
        assert (shown.status_code, shown.headers["content-type"]) == (200, "text/html; charset=utf-8")
        assert "/x/login" in shown.text
        for answer in (described, shown):
            assert answer.headers["cache-control"] == "no-store"
        assert HEADERS.items() <= dict(shown.headers).items()
