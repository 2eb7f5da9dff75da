"""A configuration file -> a Draft: the settings, or everything that is wrong with them.

In this order: the bytes must be UTF-8 text; the text must be YAML; each value must be of its key's kind; and what the
keys say together must make sense. The first two end the reading, the last two report side by side.
"""

import re
from codecs import BOM_UTF8
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gateway.errors import CannotStart, Problem, cannot_read
from gateway.settings.checks import WARNINGS, check
from gateway.settings.model import RouteSettings, Settings, SettingsKind
from gateway.settings.reader import INVALID, Reader, quoted
from gateway.settings.units import format_size
from gateway.settings.yaml import Allowed, Node, NotYaml, ScalarNode, allowed, compose, lines_of, plain_value

COMMENT: Final = "(comment)"  # the key of a warning about one
LARGEST_FILE: Final = 64 << 20  # bytes; a hundred thousand routes have 8 MiB
_EMPTY: Final = (
    "is empty; it needs upstreams and routes (for example "
    "{upstreams: {web: 'http://127.0.0.1:9000'}, routes: [{path: /**, upstream: web}]})"
)
# What YAML 1.2 does not allow in a text (production 1).
_NOT_PRINTABLE: Final = re.compile(r"[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_LINE_BREAK: Final = re.compile(r"\r\n|[\r\n\x85\u2028\u2029]")
_DECIDES_WHICH_REQUESTS: Final = ("path", "methods", "host")


@dataclass(frozen=True, slots=True)
class Draft:
    """What one file says. `settings` is None as soon as there is a problem.

    `sketch` is there even then, with defaults in the place of what could not be read: for finding more problems,
    never for serving. `routes` are those whose path, methods and host are sound, in the order of the file.
    """

    settings: Settings | None
    sketch: Settings
    routes: tuple[RouteSettings, ...]
    problems: tuple[Problem, ...]
    warnings: tuple[Problem, ...]


def read_settings(path: Path, environment: Mapping[str, str]) -> Draft:
    """Read a file. Bad content ends up in the Draft; raises CannotStart for a file that cannot be read at all."""
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_FILE + 1)
    except OSError as error:
        raise CannotStart(f"cannot read the configuration {cannot_read(path, error)}") from None
    if len(content) > LARGEST_FILE:
        raise CannotStart(f"the configuration {path} is larger than {format_size(LARGEST_FILE)}")
    return read_content(content, str(path), environment)


def read_content(content: bytes, file: str, environment: Mapping[str, str]) -> Draft:
    """Read what a file holds. `file` is its name in problems."""
    reader = Reader(file, environment)
    settings = Settings(places=reader.places)
    try:
        text = text_of_file(content)
        root = compose(text, reader.report_in)
        _hear(allowed(text), reader)
        settings = _read(root, reader) or settings
    except NotYaml as error:
        reader.report_in(error.line, error.column, "", str(error))
    return Draft(
        settings=None if reader.problems else settings,
        sketch=settings,
        routes=tuple(route for route in settings.routes if _is_sound(route, reader)),
        problems=tuple(sorted(set(reader.problems))),
        warnings=tuple(sorted(each for each in set(reader.warnings) if not reader.places.allows(each))),
    )


def _hear(names: tuple[Allowed, ...], reader: Reader) -> None:
    """Take note of the warnings that comments silence, and warn of those that there are not."""
    reader.places.allowed = lines_of(names)
    for each in names:
        if each.name not in WARNINGS:
            message = f"{quoted(each.name)} is no warning ({reader.nearest(each.name, WARNINGS)})"
            reader.warnings.append(Problem(reader.file, each.line, each.column, COMMENT, message, "unknown-allow"))


def _read(root: Node | None, reader: Reader) -> Settings | None:
    if root is None or (isinstance(root, ScalarNode) and root.plain and plain_value(root.text) is None):
        raise NotYaml(1, 1, _EMPTY)
    settings = SettingsKind().read(root, "", reader)
    if settings is INVALID:
        return None
    check(settings, reader)
    return settings


def _is_sound(route: RouteSettings, reader: Reader) -> bool:
    return not any(f"{route.key}.{name}" in reader.rejected for name in _DECIDES_WHICH_REQUESTS)


def text_of_file(content: bytes) -> str:
    """The text of a file. Raises NotYaml for anything but UTF-8 with printable characters."""
    content = content.removeprefix(BOM_UTF8)
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        line, column = _place(content[: error.start].decode())
        found = f"found the byte 0x{content[error.start]:02x}"
        raise NotYaml(line, column, f"is not UTF-8 text, {found} (save it as UTF-8)") from None
    second_mark = text.find("\ufeff")
    if second_mark >= 0:
        line, column = _place(text[:second_mark])
        raise NotYaml(line, column, "has a byte order mark inside of the file, found U+FEFF (remove it)")
    wrong = _NOT_PRINTABLE.search(text)
    if wrong is not None:
        line, column = _place(text[: wrong.start()])
        raise NotYaml(line, column, f"has a control character, found U+{ord(wrong[0]):04X} (remove it)")
    return text


def _place(before: str) -> tuple[int, int]:
    lines = _LINE_BREAK.split(before)
    return len(lines), len(lines[-1]) + 1
