"""The OpenAPI document of the built-in endpoints and its HTML page: correct, complete and safe."""

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx
import jsonschema_rs
import pytest

from gateway.api.openapi.document import document, refusals_of
from gateway.api.openapi.page import HEADERS, page
from gateway.errors import CODES
from gateway.policy.builtin_routes import own_routes
from gateway.server.endpoints import OPERATIONS, SCHEMAS
from gateway.settings.model import AccountsSettings, Settings
from tests.accounts.application import application

SETTINGS = Settings()
ROUTES = own_routes(SETTINGS)
DOCUMENT = document(SETTINGS, ROUTES, OPERATIONS, SCHEMAS)


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
    assert set(OPERATIONS) == served, "a row without an endpoint, or the other way round"


def test_a_served_endpoint_without_a_row_cannot_be_overlooked() -> None:
    with pytest.raises(KeyError, match=r"accounts\.me"):
        document(SETTINGS, ROUTES, {name: row for name, row in OPERATIONS.items() if name != "accounts.me"}, SCHEMAS)


def test_it_says_of_each_what_its_route_says() -> None:
    for route in ROUTES:
        if not route.is_served:
            continue
        methods = {method.decode().lower() for method in route.methods or {b"GET"}} - {"head"}
        for method in methods:
            described = DOCUMENT["paths"][route.pattern][method]
            assert described["security"] == ([] if route.authentication == "none" else [{"bearer": []}])
            assert ("401" in described["responses"]) >= (route.authentication != "none")
            assert ("403" in described["responses"]) >= route.requirement.names_roles
            named = [each["name"] for each in described.get("parameters", []) if each["in"] == "path"]
            assert named == re.findall(r"\{(\w+)\}", route.pattern)


def test_the_prefix_of_accounts_is_honoured() -> None:
    for prefix, expected in [("/a/b", "/a/b/login"), ("", "/login")]:
        settings = replace(SETTINGS, accounts=AccountsSettings(prefix=prefix))
        paths = document(settings, own_routes(settings), OPERATIONS, SCHEMAS)["paths"]
        assert expected in paths and "/_gateway/health" in paths and "/auth/login" not in paths


def test_every_code_of_every_refusal_is_one_that_there_is() -> None:
    for route in ROUTES:
        if route.is_served:
            assert set(refusals_of(route, OPERATIONS[route.name])) <= set(CODES)


def test_its_schemas_are_schemas_and_its_references_lead_somewhere() -> None:
    for schema in DOCUMENT["components"]["schemas"].values():
        jsonschema_rs.meta.validate({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema})
    references = [each["$ref"] for each in everything_in(DOCUMENT) if isinstance(each, dict) and "$ref" in each]
    assert references
    for reference in references:
        assert reference.removeprefix("#/components/schemas/") in DOCUMENT["components"]["schemas"]


def test_bodies_are_described_by_what_reads_them() -> None:
    body = DOCUMENT["paths"]["/auth/users"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert (set(body["properties"]), body["required"]) == ({"email", "password", "roles"}, ["email", "password"])
    assert body["properties"]["password"]["minLength"] == SETTINGS.accounts.password.min_length
    names = [each["name"] for each in DOCUMENT["paths"]["/auth/audit"]["get"]["parameters"]]
    assert names == ["subject", "actor", "action", "since", "until", "limit", "cursor"]
    assert DOCUMENT["paths"]["/auth/login"]["post"]["requestBody"]["content"].keys() == {
        "application/json",
        "application/x-www-form-urlencoded",
    }


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
    told = json.loads(json.dumps(DOCUMENT).replace("/auth/login", "/<script>alert(1)</script>&amp;"))
    text = page(told)
    assert "<script>" not in text and "/&lt;script&gt;alert(1)" in text


# ---- serving


async def test_both_are_served_to_everybody(tmp_path: Path) -> None:
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
