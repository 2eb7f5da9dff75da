"""Declarative models of request bodies and queries, with a reader per field.

A model defines the accepted fields, and collects one error message per field. `openapi.yaml` describes the models.
"""

import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Final, TypeVar, dataclass_transform

from gateway.errors import FieldError, Refusal
from gateway.settings.declare import shown
from gateway.settings.model import Settings

M = TypeVar("M", bound="Body")

# Returns the value, or raises ValueError with a message that continues the field's name.
Read = Callable[[object, Settings], Any]

_MAX_REPORTED: Final = 20  # Problems per response: a body can contain thousands of unknown fields.
_MAX_NAME: Final = 64  # Characters shown of the name of an unknown field.
_READS: Final = "gateway.accounts.reads"


def read_by(read: Read, *, secret: bool = False, default: Any = MISSING) -> Any:
    """Declares a field: its reader, whether `repr` hides it, and its default if it is optional."""
    return field(metadata={_READS: read}, repr=not secret, default=default)


@dataclass_transform(eq_default=False, frozen_default=True, field_specifiers=(read_by,))
def body(cls: type[M]) -> type[M]:
    """Makes a class with `read_by` fields a model. No code compares models, and each method that `dataclass` compiles
    is a part of the time of a start. The type checker refuses assignments to fields."""
    return dataclass(slots=True, eq=False, repr=False)(cls)


class Body:
    """A JSON object or a query with exactly these fields. Unknown fields are refused (mass assignment)."""

    __slots__ = ()
    __repr__ = shown


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


def _declared(model: type[Body]) -> dict[str, tuple[Read, bool]]:
    """The reader of each field, and whether it is required."""
    own = fields(model)  # type: ignore[arg-type]
    return {each.name: (each.metadata[_READS], each.default is MISSING) for each in own}


# Unicode normalisation (NFC) of client text, with bounded cost.
#
# Normalisation sorts combining marks in quadratic time: the 32,600 marks that fit into a request body would block the
# event loop for 1.5 seconds. The length is therefore checked first.
#
# A canonical decomposition has at most 1.5 characters per byte of UTF-8 (U+01D5: 3 for 2 bytes). A text has no more
# characters than its decomposition, and NFC does not change the decomposition.
_CHARACTERS_PER_BYTE: Final = 1.5


def composed(text: str, *, max_bytes: int) -> str:
    """The text in NFC. Returned unchanged if its NFC certainly exceeds `max_bytes` bytes of UTF-8: then the text itself
    has more than 1.5 times as many characters."""
    if len(text) > max_bytes * _CHARACTERS_PER_BYTE:
        return text
    return unicodedata.normalize("NFC", text)
