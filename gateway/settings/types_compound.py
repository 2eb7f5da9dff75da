"""Compound kinds: lists, mappings with free names, and sections with declared keys."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, TypeVar

from gateway.settings.declare import UNSET, Key, declared
from gateway.settings.hints import foreign_letter
from gateway.settings.reader import INVALID, Invalid, InvalidValue, Reader, Scalar, joined, quoted
from gateway.settings.types import FieldType, JsonSchema, Text
from gateway.settings.yaml import ListNode, MappingNode, Node, ScalarNode

T = TypeVar("T")


class ListOf(FieldType[tuple[T, ...]]):
    """A list of distinct values of one kind. `least` is the minimum length."""

    def __init__(self, kind: FieldType[T], expected: str, *, least: int = 0, right: str = "") -> None:
        self.kind = kind
        self.expected = expected
        self.words = f"list of {kind.several()}"
        self.least = least
        self.right = right

    def read_scalar(self, scalar: Scalar, node: ScalarNode, path: str, reader: Reader) -> tuple[T, ...] | Invalid:
        alone = f"[{scalar.text}]" if isinstance(scalar.value, str) and scalar.text.isalnum() else ""
        right = alone if not scalar.hidden and not scalar.source else ""
        reader.wrong(node, path, self.unacceptable(right), scalar.found)
        return INVALID

    def read_list(self, node: ListNode, path: str, reader: Reader) -> tuple[T, ...] | Invalid:
        if len(node.items) < self.least:
            reader.wrong(node, path, self.unacceptable(), "an empty list")
            return INVALID
        values: dict[T, Node] = {}
        complete = True
        for item, here, value in _items(self.kind, node, path, reader):
            if value is INVALID:
                complete = False
            elif value in values:
                reader.report(item, here, f"is repeated, first in line {values[value].line} (keep one of them)")
            else:
                values[value] = item
        return tuple(values) if complete else INVALID

    def write(self, value: tuple[T, ...]) -> list[Any]:
        return [self.kind.written(each) for each in value]

    def schema(self) -> JsonSchema:
        return {
            "type": "array",
            "items": self.kind.complete_schema(),
            "minItems": self.least,
            "uniqueItems": True,
        }


class TextOrList(FieldType[str | tuple[str, ...]]):
    """A text, or a non-empty list of texts. The value keeps the written form."""

    def __init__(self, text: Text, expected: str, *, right: str = "") -> None:
        self.text = text
        self.list = ListOf(text, expected, least=1, right=right)
        self.expected, self.right = expected, right
        self.words = f"{text.words}, or list of {text.several()}"

    def read_scalar(self, scalar: Scalar, node: ScalarNode, path: str, reader: Reader) -> str | Invalid:
        return self.text.read_scalar(scalar, node, path, reader)

    def read_list(self, node: ListNode, path: str, reader: Reader) -> tuple[str, ...] | Invalid:
        return self.list.read_list(node, path, reader)

    def write(self, value: str | tuple[str, ...]) -> Any:
        return self.text.write(value) if isinstance(value, str) else self.list.write(value)

    def schema(self) -> JsonSchema:
        return {"anyOf": [self.text.complete_schema(), self.list.schema()]}


class SetOf(FieldType[frozenset[T]]):
    """A list without an order."""

    def __init__(self, kind: ListOf[T]) -> None:
        self.kind = kind
        self.expected, self.right, self.words = kind.expected, kind.right, kind.words

    def read_scalar(self, scalar: Scalar, node: ScalarNode, path: str, reader: Reader) -> frozenset[T] | Invalid:
        self.kind.read_scalar(scalar, node, path, reader)
        return INVALID

    def read_list(self, node: ListNode, path: str, reader: Reader) -> frozenset[T] | Invalid:
        values = self.kind.read_list(node, path, reader)
        return INVALID if values is INVALID else frozenset(values)

    def write(self, value: frozenset[T]) -> list[Any]:
        return sorted(self.kind.kind.written(each) for each in value)

    def schema(self) -> JsonSchema:
        return self.kind.schema()


class Sections(ListOf[T]):
    """A list of mappings. Unreadable ones are left out, so that the others can be compared."""

    def read_list(self, node: ListNode, path: str, reader: Reader) -> tuple[T, ...] | Invalid:
        values = []
        for _, here, value in _items(self.kind, node, path, reader):
            if value is INVALID:
                reader.rejected.add(here)
            else:
                values.append(value)
        return tuple(values)

    def schema(self) -> JsonSchema:
        return {"type": "array", "items": self.kind.complete_schema()}


def _items(kind: FieldType[T], node: ListNode, path: str, reader: Reader) -> Iterator[tuple[Node, str, T | Invalid]]:
    for index, item in enumerate(node.items):
        here = f"{path}[{index}]"
        reader.places.note(here, item.line, item.column)
        yield item, here, kind.read(item, here, reader)


class MapOf(FieldType[dict[str, T]]):
    """A mapping from free names to values of one kind."""

    def __init__(self, kind: FieldType[T], expected: str, *, name: Callable[[str], str], words: str) -> None:
        self.kind = kind
        self.expected = expected
        self.name = name
        self.words = words

    def read_mapping(self, node: MappingNode, path: str, reader: Reader) -> dict[str, T] | Invalid:
        values: dict[str, T] = {}
        entries = reader.entries(node, path)
        reader.defined[path] = frozenset(entries)
        for name, (key, child) in entries.items():
            here = joined(path, name)
            reader.places.note(here, child.line, child.column)
            value = self.kind.read(child, here, reader)
            if value is INVALID or not self._is_name(key, here, reader):
                reader.rejected.add(here)
            else:
                values[name] = value
        return values

    def _is_name(self, key: ScalarNode, path: str, reader: Reader) -> bool:
        scalar = Scalar(key.text, key.plain)
        try:
            if not isinstance(scalar.value, str):
                raise InvalidValue("must be a name", f'in quotes: "{key.text}"')
            if not key.text or not key.text.isprintable():
                raise InvalidValue("must be a name")
            self.name(key.text)
        except InvalidValue as error:
            reader.wrong(key, path, error, scalar.found)
            return False
        return True

    def write(self, value: Mapping[str, T]) -> dict[str, Any]:
        return {name: self.kind.written(each) for name, each in value.items()}

    def schema(self) -> JsonSchema:
        return {"type": "object", "additionalProperties": self.kind.complete_schema()}


class Section(FieldType[T], Generic[T]):
    """A mapping with the keys declared by a class. Problems are reported, and the rest is read."""

    words = "mapping"

    def __init__(self, cls: type[T], expected: str = "a mapping") -> None:
        self.cls = cls
        self.expected = expected
        self.keys = declared(cls)
        self.required = [key for key in self.keys.values() if key.is_required]

    def read_mapping(self, node: MappingNode, path: str, reader: Reader) -> T | Invalid:
        values = self.extras(node, path, reader)
        complete = True
        entries = reader.entries(node, path)
        for name, (written, child) in entries.items():
            key = self.keys.get(name)
            here = joined(path, name)
            if key is None:
                self._unknown(written, here, reader)
                continue
            reader.places.note(here, child.line, child.column)
            value = key.kind.read(child, here, reader)
            if value is not INVALID:
                values[key.attribute] = value
            else:
                reader.rejected.add(here)
                complete = complete and not key.is_required
        for key in self.required:
            if key.name not in entries:
                reader.report(node, joined(path, key.name), f"is missing ({key.kind.expected})")
                complete = False
        return self.cls(**values) if complete else INVALID

    def extras(self, node: MappingNode, path: str, reader: Reader) -> dict[str, Any]:
        """Values of fields that are not keys."""
        return {}

    def _unknown(self, written: ScalarNode, path: str, reader: Reader) -> None:
        advice = self._advice(written, reader)
        if written.text == "<<":
            advice = "merge keys are not part of YAML 1.2; write the keys out"
        reader.report(written, path, f"is not a known key, found {quoted(written.text)} ({advice})")

    def _advice(self, written: ScalarNode, reader: Reader) -> str:
        sections = {name: key.kind for name, key in self.keys.items() if isinstance(key.kind, Section)}
        owners = [name for name, kind in sections.items() if written.text in kind.keys]
        if owners:
            return f"a key of {' and of '.join(owners)}: indent it below"
        foreign = foreign_letter(written.text)
        return f"{reader.nearest(written.text, self.keys)}{'; ' if foreign else ''}{foreign}"

    def write(self, value: T) -> dict[str, Any]:
        attributes = {key.name: (key.kind, getattr(value, key.attribute)) for key in self.keys.values()}
        return {name: kind.written(each) for name, (kind, each) in attributes.items() if each is not UNSET}

    def schema(self) -> JsonSchema:
        return {"$ref": f"#/$defs/{self.cls.__name__}"}

    def definition(self) -> JsonSchema:
        """The definition to which `schema` refers."""
        return {
            "type": "object",
            "additionalProperties": False,
            "required": [key.name for key in self.required],
            "properties": {key.name: self._property(key) for key in self.keys.values()},
        }

    def _property(self, key: Key) -> JsonSchema:
        described = {"description": key.about, **key.kind.complete_schema()}
        if key.is_required or key.default is UNSET:
            return described
        return {**described, "default": key.kind.written(key.default)}
