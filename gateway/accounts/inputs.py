"""Declarative models of request bodies and queries, with a reader per field.

A model defines the accepted fields, collects one error message per field, and generates the JSON Schema of the API
description.
"""

from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Final, TypeVar, dataclass_transform

from gateway.errors import FieldError, Refusal
from gateway.settings.model import Settings

Schema = dict[str, Any]
Shape = Callable[[Settings], Schema]  # A schema that depends on the configuration.

M = TypeVar("M", bound="Body")
R = TypeVar("R", bound="Read")

# Returns the value, or raises ValueError with a message that continues the field's name.
Read = Callable[[object, Settings], Any]

_MAX_REPORTED: Final = 20  # Problems per response: a body can contain thousands of unknown fields.
_MAX_NAME: Final = 64  # Characters shown of the name of an unknown field.
_READS: Final = "gateway.accounts.reads"
_SCHEMAS: Final[dict[Read, Shape]] = {}


def reader(schema: Schema | Shape) -> Callable[[R], R]:
    """Registers a reader together with the JSON Schema of its values, as precise as JSON Schema allows."""

    def mark(read: R) -> R:
        _SCHEMAS[read] = schema if callable(schema) else lambda _: schema
        return read

    return mark


def read_by(read: Read, *, secret: bool = False, default: Any = MISSING) -> Any:
    """Declares a field: its reader, whether `repr` hides it, and its default if it is optional."""
    return field(metadata={_READS: read}, repr=not secret, default=default)


@dataclass_transform(frozen_default=True, field_specifiers=(read_by,))
def body(cls: type[M]) -> type[M]:
    """Makes a class with `read_by` fields a model."""
    return dataclass(frozen=True, slots=True)(cls)


class Body:
    """A JSON object or a query with exactly these fields. Unknown fields are refused (mass assignment)."""

    __slots__ = ()


def accept(model: type[M], values: Mapping[str, Any], settings: Settings) -> M:
    """Build a model from values, or raise Refusal("invalid_fields") with every problem. Messages never contain values,
    which can be secret."""
    found: dict[str, Any] = {}
    errors = []
    declared = _declared(model)
    for name, (read, is_required) in declared.items():
        if name not in values:
            if is_required:
                errors.append(FieldError(name, "is required"))
            continue
        try:
            found[name] = read(values[name], settings)
        except ValueError as error:
            errors.append(FieldError(name, str(error)))
    unknown = [name for name in values if name not in declared]
    errors += [FieldError(name[:_MAX_NAME], "is not a field of this request") for name in unknown[:_MAX_REPORTED]]
    if errors:
        raise Refusal("invalid_fields", fields=errors[:_MAX_REPORTED])
    return model(**found)


def schema_of(model: type[Body]) -> Shape:
    """The JSON Schema of a model, as a function of the settings."""

    def described(settings: Settings) -> Schema:
        declared = _declared(model)
        return {
            "type": "object",
            "properties": {name: _SCHEMAS[read](settings) for name, (read, _) in declared.items()},
            "required": [name for name, (_, is_required) in declared.items() if is_required],
            "additionalProperties": False,
        }

    return described


def _declared(model: type[Body]) -> dict[str, tuple[Read, bool]]:
    """The reader of each field, and whether it is required."""
    own = fields(model)  # type: ignore[arg-type]
    return {each.name: (each.metadata[_READS], each.default is MISSING) for each in own}
