"""The state of one reading: the problems found so far, the places of keys, and the values of scalars."""

import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from enum import Enum
from pathlib import Path
from typing import Final, NamedTuple

from gateway.errors import Problem
from gateway.settings.hints import odd_character
from gateway.settings.interpolation import CannotFill, fill
from gateway.settings.positions import Places
from gateway.settings.secret import without_userinfo
from gateway.settings.yaml import ListNode, MappingNode, Node, Plain, ScalarNode, plain_value

WHOLE_FILE: Final = "(file)"  # the key of a problem that belongs to no key
LONGEST_SHOWN: Final = 60  # characters of a value in a message
MOST_LISTED: Final = 20  # names in a message
_NAMES: Final = re.compile(r"(?<!\$)\$\{(.*?)(?::-[^}]*)?\}", re.DOTALL)
_MOST_GUESSES: Final = 200  # comparing ten thousand misspelt names with as many known ones would take minutes


class Invalid(Enum):
    """What reading answers for a value that is not acceptable; the problem has been reported by then."""

    INVALID = "invalid"


INVALID: Final = Invalid.INVALID


class Unacceptable(Exception):
    """A value is not what its key asks for. `right`: what would be; `shows_value`: whether to quote it."""

    def __init__(self, message: str, right: str = "", *, shows_value: bool = True) -> None:
        super().__init__(message)
        self.message = message
        self.right = right
        self.shows_value = shows_value


class Scalar(NamedTuple):
    """A scalar with its placeholders filled in. `plain`: it may mean a number, a boolean or null.

    `hidden`: its text must not be shown. `source` names the placeholders it was made from.
    """

    text: str
    plain: bool
    hidden: bool = False
    source: str = ""
    files: tuple[Path, ...] = ()

    @property
    def value(self) -> Plain:
        """What the scalar means: quoted ones are strings, plain ones follow YAML 1.2."""
        return plain_value(self.text) if self.plain else self.text

    @property
    def is_null(self) -> bool:
        """Whether this is `null`, `~` or nothing at all."""
        return self.plain and self.value is None

    @property
    def found(self) -> str:
        """The value as a message quotes it."""
        if self.hidden:
            return f"the value of {self.source}" if self.source else "a value that is not shown"
        shown = _shown(self.text, self.value)
        return f"{shown} from {self.source}" if self.source else shown


class Reader:
    """Collects what one file says and what is wrong with it. One for each reading."""

    def __init__(self, file: str, environment: Mapping[str, str]) -> None:
        self.file = file
        self.environment = environment
        self.places = Places(file)
        self.problems: list[Problem] = []
        self.warnings: list[Problem] = []
        self.rejected: set[str] = set()  # paths of values that could not be read
        self.defined: dict[str, frozenset[str]] = {}  # path of a mapping -> the names in it, sound or not
        self.roles_named: list[tuple[str, str]] = []  # path, role
        self._guesses = 0

    def scalar(self, node: ScalarNode, path: str) -> Scalar | None:
        """The value of a node, or None after reporting an odd character, or a placeholder that has no value."""
        odd = odd_character(node)
        if odd:
            self.report(node, path, odd)
            return None
        if "${" not in node.text:
            return Scalar(node.text, node.plain)
        try:
            filled = fill(node.text, self.environment)
        except CannotFill as error:
            self.report(node, path, str(error))
            return None
        return Scalar(filled.text, node.plain, filled.hidden, _source(node.text), filled.files)

    def report(self, node: Node, path: str, message: str) -> None:
        """Add a problem at a node."""
        self.report_in(node.line, node.column, path, message)

    def report_in(self, line: int, column: int, path: str, message: str) -> None:
        """Add a problem at a place; without a path, it is the file's."""
        self.problems.append(Problem(self.file, line, column, path or WHOLE_FILE, _printable(message)))

    def wrong(self, node: Node, path: str, error: Unacceptable, found: str) -> None:
        """Add a problem in the usual form: what is wrong, what was found, what would be right."""
        found = f", found {found}" if error.shows_value else ""
        right = f" ({error.right})" if error.right else ""
        self.report(node, path, f"{error.message}{found}{right}")

    def report_at(self, path: str, message: str) -> None:
        """Add a problem at the place of a key that has been read."""
        place = self.places.position_of(path)
        self.report_in(place.line, place.column, path, message)

    def warn_at(self, path: str, code: str, message: str) -> None:
        """Add a warning at the place of a key that has been read: what is legal, but dangerous. `code` is its name."""
        place = self.places.position_of(path)
        self.warnings.append(Problem(self.file, place.line, place.column, path, _printable(message), code))

    def entries(self, node: MappingNode, path: str) -> dict[str, tuple[ScalarNode, Node]]:
        """The entries of a mapping by key; a key that is no text, or that stands there twice, is reported."""
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
                    f"stands here twice, first in line {first} (keep one of them)",
                )
            else:
                entries[key.text] = (key, value)
        return entries

    def nearest(self, name: str, names: Iterable[str]) -> str:
        """`did you mean port?`, or the known names if none is near."""
        everything = sorted(names)
        self._guesses += 1
        near = get_close_matches(name, everything, n=1, cutoff=0.6) if self._guesses <= _MOST_GUESSES else []
        return f"did you mean {near[0]}?" if near else known(everything)


def joined(path: str, name: str) -> str:
    """The path of a key of the mapping at `path`."""
    name = _printable(name)
    return f"{path}.{name}" if path else name


def kind_of(node: ListNode | MappingNode) -> str:
    """What a message calls a node that should have been something else."""
    return "a list" if isinstance(node, ListNode) else "a mapping"


def known(names: Iterable[str]) -> str:
    """`known: api, web`, for a name that is not there; long lists are cut."""
    everything = sorted(names)
    if not everything:
        return "there is none"
    more = f" and {len(everything) - MOST_LISTED} more" if len(everything) > MOST_LISTED else ""
    return f"known: {', '.join(everything[:MOST_LISTED])}{more}"


def quoted(text: str) -> str:
    """A text of the file as a message quotes it: on one line, not too long, without passwords."""
    # Blotted out before it is cut: without its `@`, a password could not be told from a host.
    return f"'{_shortened(without_userinfo(text))}'"


def _source(text: str) -> str:
    """The placeholders of a value, without the default of one, which may be a password."""
    return " ".join(dict.fromkeys(f"${{{name}}}" for name in _NAMES.findall(text)))


def _shown(text: str, value: Plain) -> str:
    if value is None:
        return text or "nothing"
    return quoted(text) if isinstance(value, str) else _shortened(text)


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST_SHOWN else f"{text[: LONGEST_SHOWN - 1]}…"


def _printable(text: str) -> str:
    """A text that can do nothing to a terminal. Not by repr(), which doubles backslashes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
