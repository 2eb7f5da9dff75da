"""Comments that silence warnings: `# gateway: allow NAME, NAME`, beside the line they are about or alone above it.

YAML's events hold no comments, so they are found in the text: a `#` after white space, or at the beginning of a line,
that stands inside of no scalar. What looks like a comment inside of quotes or of a block of text is data.
"""

import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

import yaml

from gateway.settings.nodes import event_source

_ALLOW: Final = re.compile(r"(?:(?<=[ \t])|^)#[ \t]*gateway:[ \t]*allow[ \t]+([^#\r\n]*)", re.MULTILINE)
_NAMES: Final = re.compile(r"[^\s,]+")
_NOTHING_ELSE: Final = re.compile(r"[ \t]*(?:#.*)?")


class Allowed(NamedTuple):
    """One name in one comment: where it stands, and the line that it is about. Both count from 1."""

    name: str
    line: int
    column: int
    about: int


def allowed(text: str) -> tuple[Allowed, ...]:
    """What comments in a text allow. The text must be YAML."""
    found = list(_ALLOW.finditer(text))
    if not found:
        return ()  # which is nearly always, and spares reading the text once more
    inside = _Scalars(text)
    return tuple(each for comment in found if comment.start() not in inside for each in _of(comment, text))


def lines_of(names: tuple[Allowed, ...]) -> Mapping[int, frozenset[str]]:
    """The names that are allowed on each line."""
    lines: dict[int, set[str]] = {}
    for each in names:
        lines.setdefault(each.about, set()).add(each.name)
    return {line: frozenset(names) for line, names in lines.items()}


def _of(comment: re.Match[str], text: str) -> Iterator[Allowed]:
    begin = text.rfind("\n", 0, comment.start()) + 1
    line = text.count("\n", 0, comment.start()) + 1
    about = line if text[begin : comment.start()].strip() else _next_line(text, comment.end(), line)
    for name in _NAMES.finditer(comment[1]):
        yield Allowed(name[0], line, comment.start(1) + name.start() - begin + 1, about)


def _next_line(text: str, end: int, line: int) -> int:
    """The next line that says something."""
    for following in text[end:].split("\n")[1:]:
        line += 1
        if not _NOTHING_ELSE.fullmatch(following.rstrip("\r")):
            break
    return line


class _Scalars:
    """Where scalars stand in a text."""

    def __init__(self, text: str) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        for event in yaml.parse(text, Loader=event_source()):
            if isinstance(event, yaml.ScalarEvent):
                start, end = event.start_mark, event.end_mark
                assert start is not None, "a text that is read has marks"
                assert end is not None, "a text that is read has marks"
                self._starts.append(start.index)
                self._ends.append(end.index)

    def __contains__(self, index: int) -> bool:
        number = bisect_right(self._starts, index) - 1
        return number >= 0 and index < self._ends[number]
