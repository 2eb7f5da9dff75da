"""How a request's body or query is declared: a model with a reader for each field. From the same declaration comes what
is accepted, every problem of one that is not as a sentence for its field, and the schema that callers are shown."""

from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Final, TypeVar, dataclass_transform

from gateway.described import Schema, Shape
from gateway.errors import FieldError, Refusal
from gateway.settings.model import Settings

M = TypeVar("M", bound="Body")
R = TypeVar("R", bound="Read")

# What a value says, or ValueError with a sentence that follows the field's name.
Read = Callable[[object, Settings], Any]

_MAX_REPORTED: Final = 20  # problems in one answer: a body may hold thousands of unknown fields
_MAX_NAME: Final = 64  # characters of an unknown field's name
_READS: Final = "gateway.accounts.reads"
_SCHEMAS: Final[dict[Read, Shape]] = {}


def reader(schema: Schema | Shape) -> Callable[[R], R]:
    """Marks a function that reads values, with the JSON Schema of what it accepts, as far as that can be said."""

    def mark(read: R) -> R:
        _SCHEMAS[read] = schema if callable(schema) else lambda _: schema
        return read

    return mark


def read_by(read: Read, *, secret: bool = False, default: Any = MISSING) -> Any:
    """A field: what reads it, whether it may be shown, and what it is where the request leaves it out."""
    return field(metadata={_READS: read}, repr=not secret, default=default)


@dataclass_transform(frozen_default=True, field_specifiers=(read_by,))
def body(cls: type[M]) -> type[M]:
    """Makes a class with fields by `read_by` a model."""
    return dataclass(frozen=True, slots=True)(cls)


class Body:
    """A JSON object, or a query, with exactly these fields: nothing that is not asked for is ever obeyed (mass
    assignment)."""

    __slots__ = ()


def accept(model: type[M], values: Mapping[str, Any], settings: Settings) -> M:
    """The model of these values, or Refusal("invalid_fields") with every problem of them. No value is ever repeated: it
    may be secret."""
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
    """The JSON Schema of a model, once the settings are known."""

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
    """What reads each field of a model, and whether it has to be there."""
    own = fields(model)  # type: ignore[arg-type]
    return {each.name: (each.metadata[_READS], each.default is MISSING) for each in own}
