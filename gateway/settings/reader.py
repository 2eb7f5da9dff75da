"""The state of reading one file: problems so far, positions of keys, and values of scalars."""

import re
from collections.abc import Iterable, Mapping
from enum import Enum
from pathlib import Path
from typing import Final, NamedTuple

from gateway.errors import Problem
from gateway.settings.hints import odd_character
from gateway.settings.interpolation import PlaceholderError, fill
from gateway.settings.positions import SourceMap
from gateway.settings.secret import without_userinfo
from gateway.settings.yaml import ListNode, MappingNode, Node, Plain, ScalarNode, plain_value

WHOLE_FILE: Final = "(file)"  # the key in problems of the file as a whole
LONGEST_SHOWN: Final = 60  # characters of a value in a message
MOST_LISTED: Final = 20  # names in a message
_NAMES: Final = re.compile(r"(?<!\$)\$\{(.*?)(?::-[^}]*)?\}", re.DOTALL)
_MOST_GUESSES: Final = 200  # comparing 10,000 misspelt names with as many known ones would take minutes


class Invalid(Enum):
    """The result for an unacceptable value, whose problem has been reported."""

    INVALID = "invalid"


INVALID: Final = Invalid.INVALID


class InvalidValue(Exception):
    """A value that its key does not accept. `right` is a suggestion; `shows_value`: quote the value in the message."""

    def __init__(self, message: str, right: str = "", *, shows_value: bool = True) -> None:
        super().__init__(message)
        self.message = message
        self.right = right
        self.shows_value = shows_value


class Scalar(NamedTuple):
    """A scalar with its placeholders expanded. `plain`: it can be a number, a boolean or null.

    `hidden`: its text must not be shown. `source` names its placeholders.
    """

    text: str
    plain: bool
    hidden: bool = False
    source: str = ""
    files: tuple[Path, ...] = ()

    @property
    def value(self) -> Plain:
        """The value: quoted scalars are strings, plain ones follow YAML 1.2."""
        return plain_value(self.text) if self.plain else self.text

    @property
    def is_null(self) -> bool:
        """Whether the value is `null`, `~` or empty."""
        return self.plain and self.value is None

    @property
    def found(self) -> str:
        """The value as quoted in messages."""
        if self.hidden:
            return f"the value of {self.source}" if self.source else "a value that is not shown"
        shown = _shown(self.text, self.value)
        return f"{shown} from {self.source}" if self.source else shown


class Reader:
    """Collects the values and problems of one file. Used for one reading."""

    def __init__(self, file: str, environment: Mapping[str, str]) -> None:
        self.file = file
        self.environment = environment
        self.places = SourceMap(file)
        self.problems: list[Problem] = []
        self.warnings: list[Problem] = []
        self.rejected: set[str] = set()  # paths of unreadable values
        self.defined: dict[str, frozenset[str]] = {}  # path of a mapping -> all its names, including invalid ones
        self.roles_named: list[tuple[str, str]] = []  # path, role
        self._guesses = 0

    def scalar(self, node: ScalarNode, path: str) -> Scalar | None:
        """The value of a node. Returns None after reporting an odd character or a placeholder without a value."""
        odd = odd_character(node)
        if odd:
            self.report(node, path, odd)
            return None
        if "${" not in node.text:
            return Scalar(node.text, node.plain)
        try:
            filled = fill(node.text, self.environment)
        except PlaceholderError as error:
            self.report(node, path, str(error))
            return None
        self.places.files |= frozenset(filled.files)
        return Scalar(filled.text, node.plain, filled.hidden, _source(node.text), filled.files)

    def report(self, node: Node, path: str, message: str) -> None:
        """Add a problem at a node."""
        self.report_in(node.line, node.column, path, message)

    def report_in(self, line: int, column: int, path: str, message: str) -> None:
        """Add a problem at a position. Without a path, it concerns the whole file."""
        self.problems.append(Problem(self.file, line, column, path or WHOLE_FILE, _printable(message)))

    def wrong(self, node: Node, path: str, error: InvalidValue, found: str) -> None:
        """Add a problem in the usual form: the error, the found value, a suggestion."""
        found = f", found {found}" if error.shows_value else ""
        right = f" ({error.right})" if error.right else ""
        self.report(node, path, f"{error.message}{found}{right}")

    def report_at(self, path: str, message: str) -> None:
        """Add a problem at the position of a key."""
        place = self.places.position_of(path)
        self.report_in(place.line, place.column, path, message)

    def warn_at(self, path: str, code: str, message: str) -> None:
        """Add a warning about a legal but dangerous setting, at the position of a key. `code` is its name."""
        place = self.places.position_of(path)
        self.warnings.append(Problem(self.file, place.line, place.column, path, _printable(message), code))

    def entries(self, node: MappingNode, path: str) -> dict[str, tuple[ScalarNode, Node]]:
        """The entries of a mapping by key. Reports repeated keys and keys that are not text."""
        entries: dict[str, tuple[ScalarNode, Node]] = {}
        for key, value in node.entries():
            if not isinstance(key, ScalarNode):
                self.report(key, path, f"has a key that is not a name, found {kind_of(key)}")
            elif odd_character(key):
                self.report(key, joined(path, key.text), odd_character(key))
            elif key.text in entries:
                first = entries[key.text][0].line
                self.report(
                    key,
                    joined(path, key.text),
                    f"is repeated, first in line {first} (keep one of them)",
                )
            else:
                entries[key.text] = (key, value)
        return entries

    def nearest(self, name: str, names: Iterable[str]) -> str:
        """`did you mean port?`, or the known names if none is similar."""
        from difflib import get_close_matches  # for a file with problems only

        everything = sorted(names)
        self._guesses += 1
        near = get_close_matches(name, everything, n=1, cutoff=0.6) if self._guesses <= _MOST_GUESSES else []
        return f"did you mean {near[0]}?" if near else known(everything)


def joined(path: str, name: str) -> str:
    """The path of a key in the mapping at `path`."""
    name = _printable(name)
    return f"{path}.{name}" if path else name


def kind_of(node: ListNode | MappingNode) -> str:
    """The word for a list or mapping in messages."""
    return "a list" if isinstance(node, ListNode) else "a mapping"


def known(names: Iterable[str]) -> str:
    """`known: api, web`. Long lists are truncated."""
    everything = sorted(names)
    if not everything:
        return "none is defined"
    more = f" and {len(everything) - MOST_LISTED} more" if len(everything) > MOST_LISTED else ""
    return f"known: {', '.join(everything[:MOST_LISTED])}{more}"


def quoted(text: str) -> str:
    """Quote a text of the file for a message: on one line, truncated, without passwords."""
    # Masked before it is truncated: without its `@`, a password could not be distinguished from a host.
    return f"'{_shortened(without_userinfo(text))}'"


def _source(text: str) -> str:
    """The placeholders of a value, without defaults, which can be passwords."""
    return " ".join(dict.fromkeys(f"${{{name}}}" for name in _NAMES.findall(text)))


def _shown(text: str, value: Plain) -> str:
    if value is None:
        return text or "nothing"
    return quoted(text) if isinstance(value, str) else _shortened(text)


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST_SHOWN else f"{text[: LONGEST_SHOWN - 1]}…"


def _printable(text: str) -> str:
    """Escape characters that could control a terminal. repr() would also double backslashes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
