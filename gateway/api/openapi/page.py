"""Render the OpenAPI document as a self-contained HTML page without scripts.

All text is escaped. The content security policy allows only the embedded style sheet, by its digest.
"""

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from html import escape
from importlib.resources import files
from typing import Any, Final

_STYLE: Final = files("gateway.api.openapi").joinpath("page.css").read_text(encoding="utf-8")
_DIGEST: Final = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode("ascii")
HEADERS: Final = {
    "content-security-policy": "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    f"style-src 'sha256-{_DIGEST}'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
_METHODS: Final = ("get", "post", "put", "patch", "delete")
_REF: Final = "#/components/schemas/"


def page(document: Mapping[str, Any]) -> str:
    """The HTML page of an OpenAPI document built by this gateway."""
    document = _with_inlined_values(document)
    info = document["info"]
    title = escape(f"{info['title']} {info['version']}")
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" '
        f'content="light dark"><style>{_STYLE}</style></head><body>{_navigation(document)}<main>'
        f"<header><h1>{title}</h1>{_text(info['description'])}{_introduction()}</header>"
        f"{''.join(_group(document, tag) for tag in document['tags'])}{_schemas(document)}</main></body></html>\n"
    )


def _with_inlined_values(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """A copy with parameters, request bodies and schemas of single values in place of their references."""
    components = document["components"]

    def copy(value: Any, *, is_body: bool = False) -> Any:
        if isinstance(value, list):
            return [copy(each) for each in value]
        if not isinstance(value, dict):
            return value
        if "$ref" in value:
            kind, name = value["$ref"].removeprefix("#/components/").split("/")
            target = components[kind][name]
            return copy(target) if is_body or target.get("type") != "object" else value
        return {key: copy(each, is_body=is_body or key == "requestBody") for key, each in value.items()}

    schemas = {name: schema for name, schema in components["schemas"].items() if schema.get("type") == "object"}
    return {**copy({**document, "components": {}}), "components": {"schemas": copy(schemas)}}


def _introduction() -> str:
    return _text(
        "Operations marked with a key take an access token: `Authorization: Bearer TOKEN`. Errors are "
        "`application/problem+json`; each has a `code`. The machine-readable document: "
    ).replace("</p>", '<a href="/_gateway/openapi.json">openapi.json</a></p>')


def _operations(document: Mapping[str, Any], tag: str) -> Iterable[tuple[str, str, Mapping[str, Any]]]:
    """Path, method and description of each operation with a tag."""
    for path, item in document["paths"].items():
        for method in _METHODS:
            if method in item and tag in item[method]["tags"]:
                yield path, method, item[method]


def _navigation(document: Mapping[str, Any]) -> str:
    parts = []
    for tag in document["tags"]:
        rows = (
            f'<li><a href="#{escape(operation["operationId"])}">{_badge(method)}<span>{escape(path)}</span></a></li>'
            for path, method, operation in _operations(document, tag["name"])
        )
        parts.append(f"<h2>{escape(tag['name'])}</h2><ul>{''.join(rows)}</ul>")
    return f"<nav>{''.join(parts)}<h2><a href='#schemas'>Schemas</a></h2></nav>"


def _group(document: Mapping[str, Any], tag: Mapping[str, str]) -> str:
    operations = (_operation(*each) for each in _operations(document, tag["name"]))
    return f"<section><h2>{escape(tag['name'])}</h2>{_text(tag['description'])}{''.join(operations)}</section>"


def _operation(path: str, method: str, operation: Mapping[str, Any]) -> str:
    key = ' <span class="key" title="needs an access token">key</span>' if operation["security"] else ""
    return (
        f'<article id="{escape(operation["operationId"])}"><h3>{_badge(method)}<code>{escape(path)}</code>{key}</h3>'
        f"<p><strong>{escape(operation['summary'])}.</strong></p>{_text(operation.get('description', ''))}"
        f"{_parameters(operation.get('parameters', []))}{_bodies(operation.get('requestBody'))}"
        f"{_responses(operation['responses'])}</article>"
    )


def _badge(method: str) -> str:
    return f'<b class="{method}">{method.upper()}</b>'


def _parameters(parameters: Iterable[Mapping[str, Any]]) -> str:
    rows = [
        (f"<code>{escape(each['name'])}</code>{_mark(each['required'])}", each["in"], _meaning(each["schema"], each))
        for each in parameters
    ]
    return _table(("Parameter", "In", "Meaning"), rows)


def _bodies(body: Mapping[str, Any] | None) -> str:
    if body is None:
        return ""
    return "".join(
        f"<h4>Body, <code>{escape(media_type)}</code></h4>{_fields(each['schema'], 'Field')}"
        for media_type, each in body["content"].items()
    )


def _fields(schema: Mapping[str, Any], heading: str) -> str:
    required = schema.get("required", [])
    rows = [
        (f"<code>{escape(name)}</code>{_mark(name in required)}", _meaning(each, each))
        for name, each in schema.get("properties", {}).items()
    ]
    return _table((heading, "Meaning"), rows)


def _responses(responses: Mapping[str, Any]) -> str:
    """Successful responses as a table, errors in a collapsed section: they are similar for all operations."""
    good = {status: each for status, each in responses.items() if status < "400"}
    bad = {status: each for status, each in responses.items() if status >= "400"}
    fold = f"<details><summary>Errors: {', '.join(bad)}</summary>{_table(('Error', 'Meaning'), _rows(bad))}</details>"
    return _table(("Answer", "Meaning"), _rows(good)) + fold


def _rows(responses: Mapping[str, Any]) -> Iterable[tuple[str, ...]]:
    for status, each in responses.items():
        yield f'<b class="s{status[0]}">{status}</b>', _response(status, each)


def _response(status: str, answer: Mapping[str, Any]) -> str:
    parts = [_text(answer["description"])]
    schemas = (each["schema"] for each in answer.get("content", {}).values())
    parts += (f"<p>{_kind(schema)}</p>" for schema in schemas if "allOf" not in schema)
    if status < "300":  # Headers of errors are the same everywhere.
        for name, each in answer.get("headers", {}).items():
            parts.append(f"<p>Header <code>{escape(name)}</code>: {_inline(each['description'])}</p>")
    return "".join(parts)


def _schemas(document: Mapping[str, Any]) -> str:
    parts = (
        f'<article id="schema-{escape(name)}">{_text(schema.get("description", ""))}{_fields(schema, name)}</article>'
        for name, schema in document["components"]["schemas"].items()
    )
    return f'<section id="schemas"><h2>Schemas</h2>{"".join(parts)}</section>'


def _meaning(schema: Mapping[str, Any], described: Mapping[str, Any]) -> str:
    text = described.get("description", "")
    return f"{_kind(schema)}{'. ' + _inline(text) if text else ''}"


def _kind(schema: Mapping[str, Any]) -> str:
    """A short description of the values."""
    if "$ref" in schema:
        name = escape(schema["$ref"].removeprefix(_REF))
        return f'<a href="#schema-{name}">{name}</a>'
    if "anyOf" in schema:
        return " or ".join(_kind(each) for each in schema["anyOf"])
    if "const" in schema:
        return f"<code>{escape(json.dumps(schema['const']))}</code>"
    if "enum" in schema:
        return "one of " + ", ".join(f"<code>{escape(str(value))}</code>" for value in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {_kind(schema['items'])}{_limits(schema)}"
    return escape(str(schema.get("format", schema.get("type", "anything")))) + _limits(schema)


_LIMITS: Final = {
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
    "maxItems": "at most {}",
    "minimum": "from {}",
    "maximum": "up to {}",
    "default": "default {}",
}


def _limits(schema: Mapping[str, Any]) -> str:
    return "".join(f", {text.format(escape(str(schema[name])))}" for name, text in _LIMITS.items() if name in schema)


def _mark(required: bool) -> str:
    return "" if required else " <i>optional</i>"


def _text(text: str) -> str:
    """One paragraph per line."""
    return "".join(f"<p>{_inline(line)}</p>" for line in text.splitlines() if line)


def _inline(text: str) -> str:
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    if not body:
        return ""
    heading = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    return f"<table><thead><tr>{heading}</tr></thead><tbody>{body}</tbody></table>"
