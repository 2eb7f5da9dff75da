"""Declarations of configuration keys: kind, description and default, in one place.

The reader, the JSON Schema and the reference in docs/ use the same declaration. Pydantic is not used because it takes
55 ms and 20 MiB at start-up, does not know positions in the file, and words its errors for programmers.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Any, Final, NamedTuple, TypeVar, dataclass_transform

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
    kind: FieldType[Any]
    about: str
    default: Any

    @property
    def is_required(self) -> bool:
        return self.default is REQUIRED


def setting(kind: FieldType[Any], about: str, *, default: Any = REQUIRED) -> Any:
    """Declare a key. Without a default, it is required."""
    metadata = {_KEY: (kind, about, default)}
    if default is REQUIRED:
        return field(metadata=metadata)
    if isinstance(default, dict):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(setting, field))
def section(cls: type[T]) -> type[T]:
    """A dataclass of declared keys. The reader fills fields that are not keys.

    The type checker refuses assignments to its fields. Methods that `dataclass` compiles for each class, those of a
    frozen one included, take a twelfth of a start; these are the same functions for all sections.
    """
    made = dataclass(slots=True, kw_only=True, eq=False, repr=False)(cls)
    for name, method in (("__eq__", _is_equal), ("__hash__", _hash), ("__repr__", shown)):
        setattr(made, name, method)
    return made


def _is_equal(section: Any, other: object) -> bool:
    return other.__class__ is section.__class__ and _values(section) == _values(other)


def _hash(section: Any) -> int:
    return hash(_values(section))


def _values(section: Any) -> tuple[Any, ...]:
    return tuple(getattr(section, each.name) for each in fields(section) if each.compare)


def shown(instance: Any) -> str:
    """The `repr` of a dataclass, without the fields that hide their values."""
    values = (f"{each.name}={getattr(instance, each.name)!r}" for each in fields(instance) if each.repr)
    return f"{type(instance).__qualname__}({', '.join(values)})"


def declared(cls: Any) -> Mapping[str, Key]:
    """The keys of a section by their name in the file, without Python's trailing underscore (`for_`)."""
    found = {}
    for each in fields(cls):
        if _KEY in each.metadata:
            name = each.name.rstrip("_")
            found[name] = Key(name, each.name, *each.metadata[_KEY])
    return found
