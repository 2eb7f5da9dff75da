"""What one of the gateway's own endpoints says of itself: a row in a table beside it, from which its description in
OpenAPI is made. What follows from its route stands there and nowhere else: path, method, who may call it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from gateway.settings.model import Settings

Schema = dict[str, Any]
Shape = Callable[[Settings], Schema]  # a schema that depends on the configuration


class Answer(NamedTuple):
    """An answer that is no refusal. `headers` are those worth knowing, with their meaning; without a schema it has no
    body."""

    says: str
    schema: Schema | None = None
    media_type: str = "application/json"
    headers: Mapping[str, str] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One endpoint. `bodies` are the shapes of its body by media type, `query` that of its query; `refusals` are the
    codes of its own, beside those which follow from what it takes and whom it lets in."""

    summary: str
    answers: Mapping[int, Answer]
    text: str = ""
    bodies: Mapping[str, Shape] = field(default_factory=dict)
    query: Shape | None = None
    refusals: tuple[str, ...] = ()


Operations = Mapping[str, Operation]  # by the names of their endpoints


def ref(name: str) -> Schema:
    """The component schema of this name."""
    return {"$ref": f"#/components/schemas/{name}"}


def exactly(properties: Mapping[str, Schema]) -> Schema:
    """An object that has all of these properties and no others."""
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
    }


def or_null(schema: Schema) -> Schema:
    """What the schema says, or null."""
    return {"anyOf": [schema, {"type": "null"}]}


TEXT: Schema = {"type": "string"}
MOMENT: Schema = {"type": "string", "format": "date-time"}
DONE = Answer("Done.")
