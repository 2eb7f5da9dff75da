"""The OpenAPI document of the built-in endpoints: the file `openapi.yaml`, fitted to the configuration.

OpenAPI 3.1.1, https://spec.openapis.org/oas/v3.1.1; schemas are JSON Schema 2020-12.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any, Final

import yaml
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

import gateway
from gateway.accounts.commands import longest_key_life
from gateway.errors import CODES
from gateway.policy.route import Route
from gateway.settings.model import Settings

Schema = dict[str, Any]

# Error codes of any request, of requests with a credential, with a body, and with a query.
_ANY: Final = ("bad_path", "bad_host", "misdirected", "bad_request", "headers_too_large", "internal_error")
_SIGNED_IN: Final = (
    "token_missing",
    "token_invalid",
    "token_expired",
    "token_revoked",
    "user_inactive",
    "storage_unavailable",
)
_WITH_BODY: Final = ("request_timeout", "body_too_large", "unsupported_media_type", "invalid_fields")
_WITH_QUERY: Final = ("invalid_fields",)
_ERRORS: Final = "x-errors"


def document(settings: Settings, routes: Iterable[Route]) -> Schema:
    """The OpenAPI document of the routes that are served."""
    described = described_operations()
    served = {route.name: route for route in routes if route.is_served}
    paths: dict[str, dict[str, Any]] = {}
    for item in described["paths"].values():
        for method, operation in item.items():
            route = served.get(operation["operationId"])
            if route is not None:
                paths.setdefault(route.pattern, {})[method] = _with_errors(operation)
    described["paths"] = paths
    described["info"]["version"] = gateway.__version__
    described["servers"] = [{"url": settings.server.public_url or "/"}]
    _configure(described["components"]["schemas"], settings)
    return described


def described_operations() -> Schema:
    """The content of `openapi.yaml`."""
    source = files("gateway.api.openapi").joinpath("openapi.yaml").read_bytes()
    described: Schema = yaml.load(source, yaml.CSafeLoader)
    return described


def errors_of(operation: Mapping[str, Any]) -> list[str]:
    """Every error code that an endpoint can return."""
    codes = [*_ANY, *operation.get(_ERRORS, ())]
    if operation["security"]:
        codes += _SIGNED_IN
    if "requestBody" in operation:
        codes += _WITH_BODY
    if any(each.get("in") == "query" for each in operation.get("parameters", ())):
        codes += _WITH_QUERY
    return list(dict.fromkeys(codes))


def _configure(schemas: Schema, settings: Settings) -> None:
    schemas["NewPassword"]["minLength"] = settings.accounts.password.min_length
    schemas["KeyLifetime"]["maximum"] = longest_key_life(settings)
    if settings.accounts.api_keys.max_ttl is None:
        schemas["KeyLifetime"]["description"] = "In seconds. Omitted or null: no expiry."
    schemas["Problem"]["properties"]["code"] = {"enum": sorted(CODES)}


def _with_errors(operation: Schema) -> Schema:
    responses = operation["responses"]
    by_status: dict[int, list[str]] = {}
    for code in errors_of(operation):
        by_status.setdefault(CODES[code][0], []).append(code)
    for status, codes in sorted(by_status.items()):
        error = _error(status, codes)
        known = responses.setdefault(str(status), error)
        if known is not error:  # /ready documents its 503 in its own format as well.
            known["content"].update(error["content"])
    return {key: value for key, value in operation.items() if key != _ERRORS}


def _error(status: int, codes: Sequence[str]) -> Schema:
    only = {"properties": {"code": {"enum": sorted(codes)}}, "required": ["errors"] if status == 422 else []}
    lines = [f"`{code}`: {CODES[code][1]}." for code in sorted(codes)]
    headers = {"X-Request-Id": "The id of the request in the logs."}
    if status == 401:
        headers["WWW-Authenticate"] = "`Bearer` (RFC 6750)."
    if status == 429:
        headers["Retry-After"] = "In seconds."
    problem = {"allOf": [{"$ref": "#/components/schemas/Problem"}, only]}
    return {
        "description": "  \n".join(lines),
        "content": {"application/problem+json": {"schema": problem}},
        "headers": {
            name: {"description": text, "required": True, "schema": {"type": "string"}}
            for name, text in headers.items()
        },
    }


Endpoint = Callable[[Request], Awaitable[Response]]


# Endpoints for the OpenAPI document and its HTML page. The first request builds it in a thread, which takes 12 ms.
def openapi_endpoints(settings: Callable[[], Settings], routes: tuple[Route, ...]) -> dict[str, Endpoint]:
    """The handlers by endpoint name. `routes` are the built-in routes, `settings` returns the active settings."""

    @cache
    def described() -> Schema:
        return document(settings(), routes)

    @cache
    def as_json() -> bytes:
        return json.dumps(described(), ensure_ascii=False, separators=(",", ":")).encode()

    async def openapi(_: Request) -> Response:
        return Response(await asyncio.to_thread(as_json), media_type="application/json")

    @cache
    def as_page() -> tuple[str, Mapping[str, str]]:
        # Imports a megabyte of HTML entities that most processes never need.
        from gateway.api.openapi.page import HEADERS, page

        return page(described()), HEADERS

    async def docs(_: Request) -> Response:
        text, headers = await asyncio.to_thread(as_page)
        return HTMLResponse(text, headers=dict(headers))

    return {"operations.openapi": openapi, "operations.docs": docs}
