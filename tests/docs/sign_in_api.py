"""The reference of the gateway's own endpoints: `python -m tests.docs.sign_in_api` updates docs/api.

Each section of the pages begins with text from openapi.yaml: purpose, body, answers, errors. The examples below that
text are written by hand, and tests run them.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from gateway.api.openapi.document import described_operations
from gateway.errors import CODES
from tests.docs.pages import DOCS

PAGES: Final = [DOCS / "api/accounts.md", DOCS / "api/administration.md"]
HEADING: Final = re.compile(r"^## ((?:GET|POST|PATCH|DELETE) /\S+)\n\n(.*?)(?=^```sh)", re.MULTILINE | re.DOTALL)
_DESCRIBED: Final = described_operations()


def operations() -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each endpoint as `METHOD PATH`, with its description."""
    for path, item in _DESCRIBED["paths"].items():
        for method, operation in item.items():
            yield f"{method.upper()} {path}", operation


def resolved(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema that a reference names."""
    while "$ref" in schema:
        found: Any = _DESCRIBED
        for part in schema["$ref"].removeprefix("#/").split("/"):
            found = found[part]
        schema = found
    return schema


def kind(schema: Mapping[str, Any]) -> str:
    """The type of a value in words."""
    schema = resolved(schema)
    if "anyOf" in schema:
        return " or ".join(kind(each) for each in schema["anyOf"])
    if "const" in schema:
        return f"`{str(schema['const']).lower() if isinstance(schema['const'], bool) else schema['const']}`"
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    names = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    if names == ["array"]:
        return f"list of {kind(schema['items'])}"
    return " or ".join(schema.get("format", name) if name == "string" else name for name in names)


def rows(schema: Mapping[str, Any]) -> Iterator[str]:
    """The members of an object, one row each."""
    schema = resolved(schema)
    for name, member in schema["properties"].items():
        is_required = "required" if name in schema["required"] else "optional"
        meaning = member.get("description") or resolved(member).get("description", "")
        yield f"| `{name}` | {kind(member)} | {is_required} | {meaning} |"


def members(schema: Mapping[str, Any]) -> str:
    """The names of an answer's members."""
    schema = resolved(schema)
    if "anyOf" in schema:
        return ", or ".join(members(each) for each in schema["anyOf"])
    return ", ".join(f"`{name}`" for name in schema.get("properties", {})) or "an object"


def answers(operation: Mapping[str, Any]) -> Iterator[str]:
    for status, answer in operation["responses"].items():
        answer = resolved(answer)
        content = answer.get("content", {}).get("application/json")
        body = f" Members: {members(content['schema'])}." if content else ""
        yield f"- {status}: {answer['description']}{body}"


def section(operation: Mapping[str, Any]) -> str:
    """The text of a section above its examples."""
    parts = [operation["summary"] + "."]
    if operation.get("description"):
        parts.append(operation["description"])
    if {"bearer": []} in operation["security"]:
        parts.append("For signed-in users." if {} not in operation["security"] else "With or without a session.")
    text = " ".join(parts)
    content = operation.get("requestBody", {}).get("content", {}).get("application/json")
    table = ["| member | type | | |", "|---|---|---|---|", *rows(content["schema"])] if content else []
    codes = [f"{CODES[code][0]} `{code}`" for code in operation.get("x-errors", ())]
    errors = ["Errors: " + ", ".join(codes) + "."] if codes else []
    blocks = [[text], table, list(answers(operation)), errors]
    return "".join("\n".join(block) + "\n\n" for block in blocks if block)


def rewritten(text: str) -> str:
    """The page with the texts of openapi.yaml."""
    known = dict(operations())
    return HEADING.sub(lambda found: f"## {found[1]}\n\n{section(known[found[1]])}", text)


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(rewritten(page.read_text(encoding="utf-8")), encoding="utf-8")
