"""`${NAME}`, `${NAME:-default}` and `${file:PATH}` in the values of the file.

`$${` stands for a literal `${`. A variable that is set but empty counts as not set for `:-`, as in a shell.
A value is never searched for another `${…}`, so that no variable can read another one.

A placeholder in the user info of an address (`postgresql://gateway:${PASSWORD}@db/gateway`) is percent-encoded, because
a `/`, `?`, `#` or `@` in a password would otherwise end the user info.
"""

import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import quote

from gateway.settings.secret import is_secretish

LARGEST_FILE: Final = 1 << 20  # bytes
FORMS: Final = "${NAME}, ${NAME:-default}, ${file:PATH}, or $${ for a literal ${"

_PLACEHOLDER: Final = re.compile(r"\$\$\{|\$\{([^{}]*)\}|\$\{")
_USER_INFO: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://([^/?#]*)@")
_VARIABLE: Final = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?::-(.*))?", re.DOTALL)


class Filled(NamedTuple):
    """A value with everything put in. `hidden`: a part may be secret. `files` are those it was taken from."""

    text: str
    hidden: bool = False
    files: tuple[Path, ...] = ()


class CannotFill(Exception):
    """A placeholder that has no value; the sentence says which and why."""


def fill(text: str, environment: Mapping[str, str]) -> Filled:
    """Put the values of all placeholders in. Raises CannotFill for the first that has none."""
    parts: list[str] = []
    files: list[Path] = []
    hidden, end = False, 0
    user_info = _user_info(text)
    for found in _PLACEHOLDER.finditer(text):
        parts.append(text[end : found.start()])
        end = found.end()
        if found[0] == "$${":
            parts.append("${")
            continue
        value, file, secretish = _value(found, environment)
        parts.append(quote(value, safe="") if found.start() in user_info else value)
        hidden = hidden or secretish
        files += [file] if file is not None else []
    parts.append(text[end:])
    return Filled("".join(parts), hidden, tuple(files))


def _user_info(text: str) -> range:
    """Where the user info of an address stands in a text, empty where it has none. A `/` or `@` inside of a placeholder
    does not count, as in `${file:/run/secrets/password}`."""
    masked = _PLACEHOLDER.sub(lambda found: "$" * len(found[0]), text)
    found = _USER_INFO.match(masked)
    return range(*found.span(1)) if found is not None else range(0)


def _value(found: re.Match[str], environment: Mapping[str, str]) -> tuple[str, Path | None, bool]:
    """The value of one placeholder, the file it was taken from, and whether it is probably secret."""
    inside: str | None = found[1]
    if inside is None:
        raise CannotFill(f"has a '${{' that is not closed, or another one inside of it ({FORMS})")
    variable = _VARIABLE.fullmatch(inside)
    if variable is not None:
        return _of_variable(variable, environment), None, is_secretish(variable[1])
    if inside.startswith("file:") and inside != "file:":
        path = Path(inside.removeprefix("file:"))
        return _content(path), path, True
    shown = inside.partition(":-")[0]  # what follows may be a password
    raise CannotFill(f"has a placeholder that is not understood, found '${{{shown}}}' ({FORMS})")


def _of_variable(variable: re.Match[str], environment: Mapping[str, str]) -> str:
    name, default = variable[1], variable[2]
    value = environment.get(name)
    if default is not None:
        value = value or default
    if value is None:
        raise CannotFill(f"the environment variable {name} is not set (set it, or write ${{{name}:-default}})")
    try:
        value.encode()
    except UnicodeEncodeError:  # Python keeps bytes that are not UTF-8 as lone surrogates (PEP 383)
        raise CannotFill(f"the environment variable {name} does not hold UTF-8 text") from None
    return value


def _content(path: Path) -> str:
    """The stripped text of a regular file: a pipe or a device could keep the reader waiting for ever."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise CannotFill(f"the file '{path}' is not a regular file")
        with path.open("rb") as file:
            content = file.read(LARGEST_FILE + 1)
        if len(content) > LARGEST_FILE:
            raise CannotFill(f"the file '{path}' is larger than 1MiB")
        return content.decode().strip()
    except OSError as error:
        raise CannotFill(f"the file '{path}' cannot be read: {error.strerror or type(error).__name__}") from None
    except ValueError:  # not UTF-8, or a NUL in the path
        raise CannotFill(f"the file '{path}' does not hold UTF-8 text") from None
