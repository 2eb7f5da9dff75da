"""Read a configuration file into a ParsedSettings: the settings, or all problems.

The content must be UTF-8 text and valid YAML, each value must be of its key's kind, and the values must be consistent.
The first two errors end the reading; the others are reported together.
"""

import re
from codecs import BOM_UTF8
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

from gateway.errors import CannotStart, Problem, cannot_read
from gateway.settings.checks import WARNINGS, check
from gateway.settings.model import RouteSettings, Settings, SettingsKind
from gateway.settings.reader import INVALID, Reader, quoted
from gateway.settings.types import format_size
from gateway.settings.yaml import (
    NOT_PRINTABLE,
    Allowed,
    Node,
    NotYaml,
    ScalarNode,
    allowed,
    compose,
    lines_of,
    plain_value,
)

COMMENT: Final = "(comment)"  # the key in warnings about comments
LARGEST_FILE: Final = 64 << 20  # bytes; a hundred thousand routes take 8 MiB
_EMPTY: Final = (
    "is empty; it needs upstreams and routes (for example "
    "{upstreams: {web: 'http://127.0.0.1:9000'}, routes: [{path: /**, upstream: web}]})"
)
_LINE_BREAK: Final = re.compile(r"\r\n|[\r\n\x85\u2028\u2029]")
_DECIDES_WHICH_REQUESTS: Final = ("path", "methods", "host")


class ParsedSettings(NamedTuple):
    """The result of reading a file. `settings` is None if there is a problem.

    `sketch` always exists, with defaults for unreadable values. It serves for finding more problems, never for serving
    requests. `routes` are those with a valid path, methods and host, in file order.
    """

    settings: Settings | None
    sketch: Settings
    routes: tuple[RouteSettings, ...]
    problems: tuple[Problem, ...]
    warnings: tuple[Problem, ...]


def read_settings(path: Path, environment: Mapping[str, str]) -> ParsedSettings:
    """Read a file. Problems of its content are in the ParsedSettings. Raises CannotStart if it cannot be read."""
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_FILE + 1)
    except OSError as error:
        raise CannotStart(f"cannot read the configuration {cannot_read(path, error)}") from None
    if len(content) > LARGEST_FILE:
        raise CannotStart(f"the configuration {path} is larger than {format_size(LARGEST_FILE)}")
    return read_content(content, str(path), environment)


def read_content(content: bytes, file: str, environment: Mapping[str, str]) -> ParsedSettings:
    """Read the content of a file. `file` is its name in problems."""
    reader = Reader(file, environment)
    settings = Settings(places=reader.places)
    try:
        text = text_of_file(content)
        root = compose(text, reader.report_in)
        _hear(allowed(text), reader)
        settings = _read(root, reader) or settings
    except NotYaml as error:
        reader.report_in(error.line, error.column, "", str(error))
    return ParsedSettings(
        settings=None if reader.problems else settings,
        sketch=settings,
        routes=tuple(route for route in settings.routes if _is_sound(route, reader)),
        problems=tuple(sorted(set(reader.problems))),
        warnings=tuple(sorted(each for each in set(reader.warnings) if not reader.places.allows(each))),
    )


def _hear(names: tuple[Allowed, ...], reader: Reader) -> None:
    """Record the warnings silenced by comments, and warn of unknown names."""
    reader.places.allowed = lines_of(names)
    for each in names:
        if each.name not in WARNINGS:
            message = f"{quoted(each.name)} is not a warning ({reader.nearest(each.name, WARNINGS)})"
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
    """Decode a file. Raises NotYaml unless it is UTF-8 with printable characters."""
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
        raise NotYaml(line, column, "has a byte order mark inside the file, found U+FEFF (remove it)")
    wrong = NOT_PRINTABLE.search(text)
    if wrong is not None:
        line, column = _place(text[: wrong.start()])
        raise NotYaml(line, column, f"has a control character, found U+{ord(wrong[0]):04X} (remove it)")
    return text


def _place(before: str) -> tuple[int, int]:
    lines = _LINE_BREAK.split(before)
    return len(lines), len(lines[-1]) + 1
