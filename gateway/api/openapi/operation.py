"""Descriptions of built-in endpoints, the source of the OpenAPI document.

Path, method and access come from the endpoint's route.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from gateway.accounts.inputs import Schema, Shape


class ResponseDescription(NamedTuple):
    """A successful response. `headers` maps notable headers to their meaning. Without a schema the response has no
    body."""

    description: str
    schema: Schema | None = None
    media_type: str = "application/json"
    headers: Mapping[str, str] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One endpoint. `bodies` are the body schemas by media type, `query` is the schema of the query. `refusals` are
    error codes beyond those implied by its inputs and access."""

    summary: str
    answers: Mapping[int, ResponseDescription]
    text: str = ""
    bodies: Mapping[str, Shape] = field(default_factory=dict)
    query: Shape | None = None
    refusals: tuple[str, ...] = ()


Operations = Mapping[str, Operation]  # By endpoint name.


def ref(name: str) -> Schema:
    """A reference to the component schema of this name."""
    return {"$ref": f"#/components/schemas/{name}"}


def closed_object(properties: Mapping[str, Schema]) -> Schema:
    """An object with exactly these properties."""
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
    }


def nullable(schema: Schema) -> Schema:
    """The schema, or null."""
    return {"anyOf": [schema, {"type": "null"}]}


TEXT: Schema = {"type": "string"}
DATE_TIME: Schema = {"type": "string", "format": "date-time"}
NO_CONTENT = ResponseDescription("Done.")
