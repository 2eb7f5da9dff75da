"""How a key of the configuration is declared: its kind, what it means, and its default, in one place.

One declaration serves the reader, the JSON Schema and the reference in docs/. It is not a pydantic model:
pydantic takes 55 ms and 20 MiB before the first line is read, cannot say where in the file a value stands,
and words its errors for programmers.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar, dataclass_transform

if TYPE_CHECKING:
    from gateway.settings.types import Kind

T = TypeVar("T")
REQUIRED: Final[Any] = object()


class Unset(Enum):
    """For a key where null has a meaning of its own: it is not written, and something else decides."""

    UNSET = "unset"


UNSET: Final = Unset.UNSET
_KEY: Final = "gateway.settings.key"


class Key(NamedTuple):
    """One key of a mapping: its name in the file and in Python, its kind and what it means."""

    name: str
    attribute: str
    kind: "Kind[Any]"
    about: str
    default: Any

    @property
    def is_required(self) -> bool:
        return self.default is REQUIRED


def setting(kind: "Kind[Any]", about: str, *, default: Any = REQUIRED) -> Any:
    """Declare a key. Without a default it must be written."""
    metadata = {_KEY: (kind, about, default)}
    if default is REQUIRED:
        return field(metadata=metadata)
    if isinstance(default, dict):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(setting, field))
def section(cls: type[T]) -> type[T]:
    """A frozen mapping of declared keys; fields that are no keys are filled in by the reader."""
    return dataclass(frozen=True, slots=True, kw_only=True)(cls)


def declared(cls: Any) -> Mapping[str, Key]:
    """The keys of a section by their name in the file. A trailing underscore belongs to Python (`for_`)."""
    found = {}
    for each in fields(cls):
        if _KEY in each.metadata:
            name = each.name.rstrip("_")
            found[name] = Key(name, each.name, *each.metadata[_KEY])
    return found
