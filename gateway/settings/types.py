"""The kinds of single values: reading, writing, JSON Schema and documentation of each."""

import copy
import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Final, Generic, TypeAlias, TypeVar

from gateway.settings.hints import duration_meant, unquoted_capture
from gateway.settings.reader import INVALID, Invalid, InvalidValue, Reader, Scalar, kind_of
from gateway.settings.yaml import ListNode, MappingNode, Node, ScalarNode

# Durations and sizes with units: `250ms 10s 15m 1h 14d`, `64KiB 10MiB`.
LONGEST: Final = 3650 * 86_400.0  # seconds: ten years; dates computed from longer durations overflow
LARGEST: Final = 1 << 50  # bytes: 1 PiB

_MILLISECONDS: Final = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}
_BYTES: Final = {"TiB": 1 << 40, "GiB": 1 << 30, "MiB": 1 << 20, "KiB": 1 << 10, "B": 1}
# The number of digits is bounded, because int() is slow for thousands of them and then raises.
_DURATION: Final = re.compile(r"([0-9]{1,15})(ms|s|m|h|d)")
_SIZE: Final = re.compile(r"([0-9]{1,16})(B|KiB|MiB|GiB|TiB)?")


def parse_duration(text: str) -> float | None:
    """Seconds, or None for an invalid duration. At most ten years."""
    found = _DURATION.fullmatch(text)
    if found is None:
        return None
    seconds = int(found[1]) * _MILLISECONDS[found[2]] / 1000
    return seconds if seconds <= LONGEST else None


def format_duration(seconds: float) -> str:
    """The shortest form of a duration, exact to the millisecond: 900.0 is `15m`, 1.5 is `1500ms`."""
    milliseconds = round(seconds * 1000)
    if milliseconds == 0:
        return "0s"
    unit = next(name for name, size in _MILLISECONDS.items() if milliseconds % size == 0)
    return f"{milliseconds // _MILLISECONDS[unit]}{unit}"


def parse_size(text: str) -> int | None:
    """Bytes, or None for an invalid size. A number without a unit counts bytes. At most 1 PiB."""
    found = _SIZE.fullmatch(text)
    if found is None:
        return None
    size = int(found[1]) * _BYTES[found[2] or "B"]
    return size if size <= LARGEST else None


def format_size(size: int) -> str:
    """The shortest form of a size: 65536 is `64KiB`, 1000 is `1000B`. 0, which means no limit, stays `0`."""
    if size == 0:
        return "0"
    unit = next(name for name, factor in _BYTES.items() if size % factor == 0)
    return f"{size // _BYTES[unit]}{unit}"


T = TypeVar("T")
JsonSchema: TypeAlias = dict[str, Any]
INTERPOLATED: Final = {"$ref": "#/$defs/interpolated"}


class FieldType(ABC, Generic[T]):
    """The type of a value. The shape of the YAML node selects one of three read methods; a kind supports one or two."""

    words: str  # in the reference: "duration"
    expected: str  # in messages: "must be {expected}"
    right: str = ""  # in messages, in parentheses: a suggestion
    nullable: bool = False

    def or_null(self) -> "FieldType[T | None]":
        """The same kind, with null allowed."""
        twin: Any = copy.copy(self)
        twin.nullable = True
        optional: FieldType[T | None] = twin
        return optional

    def read(self, node: Node, path: str, reader: Reader) -> T | Invalid:
        """Read a node. Returns INVALID after reporting every problem."""
        if isinstance(node, ScalarNode):
            scalar = reader.scalar(node, path)
            if scalar is None:
                return INVALID
            if self.nullable and scalar.is_null:
                return None  # type: ignore[return-value]  # T of a nullable kind includes None
            return self.read_scalar(scalar, node, path, reader)
        if isinstance(node, ListNode):
            return self.read_list(node, path, reader)
        return self.read_mapping(node, path, reader)

    def read_scalar(self, scalar: Scalar, node: ScalarNode, path: str, reader: Reader) -> T | Invalid:
        reader.wrong(node, path, self.unacceptable(), scalar.found)
        return INVALID

    def read_list(self, node: ListNode, path: str, reader: Reader) -> T | Invalid:
        reader.wrong(node, path, self.unacceptable(), kind_of(node))
        return INVALID

    def read_mapping(self, node: MappingNode, path: str, reader: Reader) -> T | Invalid:
        reader.wrong(node, path, self.unacceptable(), kind_of(node))
        return INVALID

    def several(self) -> str:
        """The plural of `words`."""
        return f"{self.words}es" if self.words.endswith("s") else f"{self.words}s"

    def unacceptable(self, right: str = "") -> InvalidValue:
        """The error for a value that is not of this kind."""
        return InvalidValue(f"must be {self.expected}", right or self.right)

    def written(self, value: T | None) -> Any:
        """Convert a value to its form in YAML or JSON, the inverse of reading."""
        return None if value is None else self.write(value)

    def write(self, value: T) -> Any:
        """Like `written`, for values that are not null."""
        return value

    @abstractmethod
    def schema(self) -> JsonSchema:
        """The JSON Schema (2020-12) of permitted values, without null."""

    def complete_schema(self) -> JsonSchema:
        """The JSON Schema, with null if allowed."""
        if not self.nullable:
            return self.schema()
        return {"anyOf": [self.schema(), {"type": "null"}]}


class ScalarKind(FieldType[T]):
    """A kind written as a single value."""

    def read_scalar(self, scalar: Scalar, node: ScalarNode, path: str, reader: Reader) -> T | Invalid:
        try:
            return self.accept(scalar)
        except InvalidValue as error:
            reader.wrong(node, path, error, self.found(scalar))
            return INVALID

    def read_mapping(self, node: MappingNode, path: str, reader: Reader) -> T | Invalid:
        meant = unquoted_capture(node)
        right = f'in quotes: "{meant}"' if meant else ""
        reader.wrong(node, path, self.unacceptable(right), f"{meant}, which is a mapping" if meant else kind_of(node))
        return INVALID

    def found(self, scalar: Scalar) -> str:
        """The found value as shown in messages."""
        return scalar.found

    @abstractmethod
    def accept(self, scalar: Scalar) -> T:
        """Convert a scalar. Raises InvalidValue."""

    def either(self, schema: JsonSchema) -> JsonSchema:
        """Extend the schema of a value that is not a plain string by placeholders."""
        return {"anyOf": [schema, INTERPOLATED]}


class Text(ScalarKind[str]):
    """A non-empty string of one line. `check` restricts it: it returns the text to store, or raises."""

    def __init__(
        self,
        expected: str = "text",
        *,
        check: Callable[[str], str] | None = None,
        words: str = "string",
        pattern: str | None = None,
    ) -> None:
        self.expected = expected
        self.words = words
        self.check = check
        self.pattern = pattern

    def accept(self, scalar: Scalar) -> str:
        text = text_of(scalar, self.expected)
        if not text.strip() or not text.isprintable():
            raise self.unacceptable()
        return text if self.check is None else self._checked_text(text, self.check)

    def _checked_text(self, text: str, check: Callable[[str], str]) -> str:
        try:
            return check(text)
        except InvalidValue:
            if text == text.strip():
                raise
            # The error of the stripped text, if it has one, is more specific than that about spaces.
            raise InvalidValue("must have no space around it", check(text.strip())) from None

    def schema(self) -> JsonSchema:
        if self.pattern is None:
            return {"type": "string", "minLength": 1}
        return self.either({"type": "string", "pattern": self.pattern})


class Enum(ScalarKind[str]):
    """One of several words."""

    def __init__(self, *choices: str) -> None:
        self.choices = choices
        self.words = " | ".join(f"`{choice}`" for choice in choices)
        self.expected = f"one of {', '.join(choices[:-1])} or {choices[-1]}"

    def several(self) -> str:
        return self.words

    def accept(self, scalar: Scalar) -> str:
        if scalar.value in self.choices:
            return scalar.text
        alike = [choice for choice in self.choices if choice.lower() == scalar.text.strip().lower()]
        raise self.unacceptable(alike[0] if alike else "")

    def schema(self) -> JsonSchema:
        return self.either({"enum": list(self.choices)})


class Boolean(ScalarKind[bool]):
    """true or false, without YAML 1.1's other words for them."""

    words = "boolean"
    expected = "true or false"
    _MEANT: ClassVar = {
        **dict.fromkeys(("yes", "on", "y", "true", "1"), "true"),
        **dict.fromkeys(("no", "off", "n", "false", "0"), "false"),
    }

    def accept(self, scalar: Scalar) -> bool:
        value = scalar.value
        if isinstance(value, bool):
            return value
        meant = self._MEANT.get(scalar.text.lower())
        raise self.unacceptable(f"{meant}, without quotes" if meant else "")

    def schema(self) -> JsonSchema:
        return self.either({"type": "boolean"})


class Integer(ScalarKind[int]):
    """A whole number within inclusive bounds."""

    def __init__(self, low: int, high: int) -> None:
        self.low, self.high = low, high
        self.words = f"integer {low:,}–{high:,}"
        self.expected = f"a whole number from {low} to {high}"

    def several(self) -> str:
        return self.words.replace("integer", "integers")

    def accept(self, scalar: Scalar) -> int:
        value = scalar.value
        if isinstance(value, int) and not isinstance(value, bool) and self.low <= value <= self.high:
            return value
        number = re.fullmatch(r"[0-9]{1,15}", scalar.text) if not scalar.plain else None
        raise self.unacceptable(f"{scalar.text}, without quotes" if number else "")

    def schema(self) -> JsonSchema:
        return self.either({"type": "integer", "minimum": self.low, "maximum": self.high})


class Ratio(ScalarKind[float]):
    """A fraction from 0 to 1."""

    words = "number 0–1"
    expected = "a number from 0 to 1"
    right = "for example 0.2"

    def accept(self, scalar: Scalar) -> float:
        value = scalar.value
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1:
            return float(value)
        raise self.unacceptable()

    def schema(self) -> JsonSchema:
        return self.either({"type": "number", "minimum": 0, "maximum": 1})


class Duration(ScalarKind[float]):
    """Seconds, written with a unit."""

    words = "duration"

    def __init__(self, *, zero: bool = False, most: float = LONGEST) -> None:
        self.zero = zero
        self.most = most
        self.expected = f"a duration {'of' if zero else 'above zero,'} at most {format_duration(most)}"
        self.right = "for example 250ms, 10s, 15m, 1h or 14d"

    def accept(self, scalar: Scalar) -> float:
        seconds = parse_duration(scalar.text)
        if seconds is not None and seconds <= self.most and (seconds > 0 or self.zero):
            return seconds
        number = re.fullmatch(r"[0-9]{1,9}", scalar.text)
        units = f"with a unit: {scalar.text}s, {scalar.text}ms, {scalar.text}m" if number else ""
        meant = duration_meant(scalar.text)
        raise self.unacceptable(units or (meant if meant != scalar.text else ""))

    def write(self, value: float) -> str:
        return format_duration(value)

    def schema(self) -> JsonSchema:
        return self.either({"type": "string", "pattern": "^[0-9]+(ms|s|m|h|d)$"})


class Size(ScalarKind[int]):
    """Bytes, written with a unit or as a bare number. `zero`: 0 is allowed and means no limit."""

    right = "for example 64KiB or 10MiB"

    def __init__(self, low: int, high: int, *, zero: bool = False) -> None:
        self.low, self.high, self.zero = low, high, zero
        bounds = f"from {format_size(low)} to {format_size(high)}"
        self.expected = f"a size {bounds}, or 0 for no limit" if zero else f"a size {bounds}"
        self.words = f"size {format_size(low)}–{format_size(high)}{', or 0' if zero else ''}"

    def accept(self, scalar: Scalar) -> int:
        size = parse_size(scalar.text)
        if size is not None and (self.low <= size <= self.high or (self.zero and size == 0)):
            return size
        decimal = re.fullmatch(r"([0-9]{1,9}) ?([kmgt])i?b?", scalar.text.lower())
        raise self.unacceptable(f"{decimal[1]}{decimal[2].upper()}iB" if decimal else "")

    def write(self, value: int) -> str | int:
        return format_size(value) if value else 0

    def schema(self) -> JsonSchema:
        forms = [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": "^[0-9]+(B|[KMGT]iB)?$"}]
        return {"anyOf": [*forms, INTERPOLATED]}


def text_of(scalar: Scalar, expected: str) -> str:
    """The scalar as text. Expanded values are always strings."""
    if scalar.source or isinstance(scalar.value, str):
        return scalar.text
    right = "" if scalar.is_null else f'in quotes: "{scalar.text}"'
    raise InvalidValue(f"must be {expected}", right)
