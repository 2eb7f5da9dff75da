"""The positions of keys in the file, stored compactly: the parsed YAML is dropped after reading."""

import re
from array import array
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

from gateway.errors import Problem

_IN_A_ROUTE: Final = re.compile(r"routes\[([0-9]{1,9})\].*", re.DOTALL)
_LAST_STEP: Final = re.compile(r"(?:\.[^.\[\]]*|\[[0-9]+\])\Z")
_COLUMN_BITS: Final = 20
_LINE_BITS: Final = 28
_LAST_LINE: Final = (1 << _LINE_BITS) - 1
_LAST_COLUMN: Final = (1 << _COLUMN_BITS) - 1
_MOST_SUFFIXES: Final = 1 << (64 - _LINE_BITS - _COLUMN_BITS)


class Position(NamedTuple):
    """A position in a file. `line` and `column` count from 1."""

    file: str
    line: int
    column: int


class SourceMap:
    """The positions of all keys in one file, by key path (`routes[2].upstream`).

    Ten thousand routes have about fifty thousand keys. A dict of their paths takes 10 MiB; eight bytes per key, in file
    order, take half a MiB. The slower search is used only for messages.
    """

    __slots__ = ("_outside", "_packed", "_route", "_route_starts", "_suffix_numbers", "allowed", "file", "files")

    def __init__(self, file: str) -> None:
        self.file = file
        self.files: frozenset[Path] = frozenset()  # the files of `${file:PATH}`
        self.allowed: Mapping[int, frozenset[str]] = {}  # line -> warnings silenced there
        self._outside: dict[str, tuple[int, int]] = {"": (1, 1)}
        self._route = "\0"  # prefix of the current route; initially no path has it
        self._packed = array("Q")
        self._route_starts = array("I")
        self._suffix_numbers: dict[str, int] = {}

    @property
    def written(self) -> frozenset[str]:
        """The paths of written keys, except those inside routes."""
        return frozenset(path for path in self._outside if path)

    def note(self, path: str, line: int, column: int) -> None:
        """Record a position. All keys of a route must be recorded before the next route."""
        if not path.startswith(self._route):
            inside = _IN_A_ROUTE.fullmatch(path)
            if inside is None:
                self._outside[path] = (line, column)
                return
            self._route = f"routes[{inside[1]}]"
            self._route_starts.extend([len(self._packed)] * (int(inside[1]) + 1 - len(self._route_starts)))
        suffix = path[len(self._route) :]
        number = self._suffix_numbers.setdefault(suffix, len(self._suffix_numbers))
        if number < _MOST_SUFFIXES:  # exceeded by a list of 65,536 methods, whose own position is precise enough
            line, column = min(line, _LAST_LINE), min(column, _LAST_COLUMN)
            self._packed.append((number << _LINE_BITS | line) << _COLUMN_BITS | column)

    def position_of(self, path: str) -> Position:
        """The position of a key's value, or of the nearest enclosing key that is written."""
        while True:
            found = self._find(path)
            if found is not None:
                return Position(self.file, *found)
            path = _parent(path)

    def allows(self, warning: Problem) -> bool:
        """Whether a comment on its line silences a warning."""
        return warning.code in self.allowed.get(warning.line, ())

    def _find(self, path: str) -> tuple[int, int] | None:
        inside = _IN_A_ROUTE.fullmatch(path)
        if inside is None:
            return self._outside.get(path)
        index, number = int(inside[1]), self._suffix_numbers.get(path[inside.end(1) + 1 :])
        if number is None or index >= len(self._route_starts):
            return None
        end = self._route_starts[index + 1] if index + 1 < len(self._route_starts) else len(self._packed)
        for packed in self._packed[self._route_starts[index] : end]:
            if packed >> (_LINE_BITS + _COLUMN_BITS) == number:
                return packed >> _COLUMN_BITS & _LAST_LINE, packed & _LAST_COLUMN
        return None


def _parent(path: str) -> str:
    shorter = _LAST_STEP.sub("", path)
    return shorter if shorter != path else ""
