"""Declarations of configuration keys: kind, description and default, in one place.

The reader, the JSON Schema and the reference in docs/ use the same declaration. Pydantic is not used because it takes
55 ms and 20 MiB at start-up, does not know positions in the file, and words its errors for programmers.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar, dataclass_transform

if TYPE_CHECKING:
    from gateway.settings.types import FieldType

T = TypeVar("T")
REQUIRED: Final[Any] = object()


class Unset(Enum):
    """Marks a key that is not written, where null has a meaning of its own."""

    UNSET = "unset"


UNSET: Final = Unset.UNSET
_KEY: Final = "gateway.settings.key"


class Key(NamedTuple):
    """One key of a mapping. `name` is that in the file, `attribute` that in Python."""

    name: str
    attribute: str
    kind: "FieldType[Any]"
    about: str
    default: Any

    @property
    def is_required(self) -> bool:
        return self.default is REQUIRED


def setting(kind: "FieldType[Any]", about: str, *, default: Any = REQUIRED) -> Any:
    """Declare a key. Without a default, it is required."""
    metadata = {_KEY: (kind, about, default)}
    if default is REQUIRED:
        return field(metadata=metadata)
    if isinstance(default, dict):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(setting, field))
def section(cls: type[T]) -> type[T]:
    """A frozen dataclass of declared keys. The reader fills fields that are not keys."""
    return dataclass(frozen=True, slots=True, kw_only=True)(cls)


def declared(cls: Any) -> Mapping[str, Key]:
    """The keys of a section by their name in the file, without Python's trailing underscore (`for_`)."""
    found = {}
    for each in fields(cls):
        if _KEY in each.metadata:
            name = each.name.rstrip("_")
            found[name] = Key(name, each.name, *each.metadata[_KEY])
    return found
