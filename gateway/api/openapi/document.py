"""Build the OpenAPI document from the built-in routes and their operation descriptions.

OpenAPI 3.1.1, https://spec.openapis.org/oas/v3.1.1; schemas are JSON Schema 2020-12.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import gateway
from gateway.accounts.inputs import Schema
from gateway.api.openapi.operation import Operation, Operations, ResponseDescription, ref
from gateway.errors import CODES
from gateway.policy.route import Route
from gateway.settings.model import Settings

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

TAGS: Final = {
    "accounts": ("Account", "Your account: register, sign in, sign out."),
    "admin": ("Administration", "For administrators: accounts and the audit trail."),
    "tokens": ("Gateway", "The state and the keys of the gateway itself."),
    "operations": ("Gateway", "The state and the keys of the gateway itself."),
}
_ID: Final[Schema] = {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,64}$"}
_PROBLEM: Final[Schema] = {
    "type": "object",
    "description": "An error (RFC 9457).",
    "properties": {
        "type": {"const": "about:blank"},
        "title": {"type": "string"},
        "status": {"type": "integer", "minimum": 400, "maximum": 599},
        "detail": {"type": "string", "description": "A human-readable explanation."},
        "code": {"enum": sorted(CODES)},
        "request_id": {"type": "string", "description": "The id of the request in the logs."},
        "errors": {
            "type": "array",
            "description": "With status 422: the problem of each field.",
            "items": {
                "type": "object",
                "properties": {"field": {"type": "string"}, "message": {"type": "string"}},
                "required": ["field", "message"],
                "additionalProperties": False,
            },
        },
    },
    "required": ["type", "title", "status", "detail", "code", "request_id"],
}


def document(
    settings: Settings, routes: Iterable[Route], operations: Operations, schemas: Mapping[str, Schema]
) -> Schema:
    """The OpenAPI document of the served routes. Raises KeyError for a route without a description."""
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        if route.is_served:
            described = _operation(route, operations[route.name], settings)
            paths.setdefault(route.pattern, {})[_method(route)] = described
    return {
        "openapi": "3.1.1",
        "info": {
            "title": "gateway",
            "version": gateway.__version__,
            "description": "The built-in endpoints of the gateway. All other paths belong to the upstreams behind it.",
        },
        "servers": [{"url": settings.server.public_url or "/"}],
        "tags": [{"name": name, "description": text} for name, text in dict.fromkeys(TAGS.values())],
        "paths": paths,
        "components": {
            "schemas": {**schemas, "Problem": _PROBLEM},
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
        },
    }


def _method(route: Route) -> str:
    """The described method: GET if HEAD or any method is served as well."""
    methods = sorted((route.methods or {b"GET"}) - {b"HEAD"})
    return methods[0].decode("ascii").lower()


def _operation(route: Route, row: Operation, settings: Settings) -> Schema:
    described: Schema = {
        "operationId": route.name,
        "tags": [TAGS[route.name.partition(".")[0]][0]],
        "summary": row.summary,
    }
    if row.text:
        described["description"] = row.text
    parameters = [*_path_parameters(route), *_query_parameters(row, settings)]
    if parameters:
        described["parameters"] = parameters
    if row.bodies:
        content = {media_type: {"schema": shape(settings)} for media_type, shape in row.bodies.items()}
        described["requestBody"] = {"required": True, "content": content}
    described["responses"] = _responses(row, refusals_of(route, row))
    described["security"] = [] if route.authentication == "none" else [{"bearer": []}]
    return described


def refusals_of(route: Route, row: Operation) -> list[str]:
    """Every error code that an endpoint can return."""
    codes = [*_ANY, *row.refusals]
    if route.authentication != "none":
        codes += _SIGNED_IN
    if route.requirement.names_roles:
        codes.append("forbidden")
    if row.bodies:
        codes += _WITH_BODY
    if row.query is not None:
        codes += _WITH_QUERY
    return list(dict.fromkeys(codes))


def _path_parameters(route: Route) -> list[Schema]:
    names = re.findall(r"\{(\w+)\}", route.pattern)
    return [{"name": name, "in": "path", "required": True, "schema": _ID} for name in names]


def _query_parameters(row: Operation, settings: Settings) -> list[Schema]:
    if row.query is None:
        return []
    shape = row.query(settings)
    return [_parameter(name, schema, name in shape["required"]) for name, schema in shape["properties"].items()]


def _parameter(name: str, schema: Schema, required: bool) -> Schema:
    described = {"name": name, "in": "query", "required": required, "schema": schema}
    if "description" in schema:
        described["description"] = schema["description"]
        described["schema"] = {key: value for key, value in schema.items() if key != "description"}
    return described


def _responses(row: Operation, codes: Sequence[str]) -> Schema:
    responses = {str(status): _answer(answer) for status, answer in row.answers.items()}
    by_status: dict[int, list[str]] = {}
    for code in codes:
        by_status.setdefault(CODES[code][0], []).append(code)
    for status, some in sorted(by_status.items()):
        refusal = _refusal(status, some)
        known = responses.setdefault(str(status), refusal)
        if known is not refusal:  # /ready documents its 503 in its own format as well.
            known["content"].update(refusal["content"])
    return responses


def _answer(answer: ResponseDescription) -> Schema:
    described: Schema = {"description": answer.description}
    if answer.headers:
        described["headers"] = {
            name: {"description": text, "required": True, "schema": {"type": "string"}}
            for name, text in answer.headers.items()
        }
    if answer.schema is not None:
        described["content"] = {answer.media_type: {"schema": answer.schema}}
    return described


def _refusal(status: int, codes: Sequence[str]) -> Schema:
    only = {"properties": {"code": {"enum": sorted(codes)}}, "required": ["errors"] if status == 422 else []}
    lines = [f"`{code}`: {CODES[code][1]}." for code in sorted(codes)]
    described: Schema = {
        "description": "  \n".join(lines),
        "content": {"application/problem+json": {"schema": {"allOf": [ref("Problem"), only]}}},
    }
    headers = {"X-Request-Id": "The id of the request in the logs."}
    if status == 401:
        headers["WWW-Authenticate"] = "`Bearer` (RFC 6750)."
    if status == 429:
        headers["Retry-After"] = "In seconds."
    described["headers"] = {
        name: {"description": text, "required": True, "schema": {"type": "string"}} for name, text in headers.items()
    }
    return described
