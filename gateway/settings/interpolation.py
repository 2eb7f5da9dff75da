"""Expansion of `${NAME}`, `${NAME:-default}` and `${file:PATH}` in values of the file.

`$${` is a literal `${`. For `:-`, an empty variable counts as unset, as in a shell. Expanded values are not searched
for placeholders again, so a variable cannot read another one.

In the user info of an address (`postgresql://gateway:${PASSWORD}@db/gateway`), expanded values are percent-encoded,
because a `/`, `?`, `#` or `@` in a password would otherwise end the user info.
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
    """An expanded value. `hidden`: it can contain a secret. `files` are the files it was read from."""

    text: str
    hidden: bool = False
    files: tuple[Path, ...] = ()


class PlaceholderError(Exception):
    """A placeholder without a value. The message states which, and why."""


def fill(text: str, environment: Mapping[str, str]) -> Filled:
    """Expand all placeholders. Raises PlaceholderError for the first one without a value."""
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
    """The range of the user info of an address in a text; empty without one. A `/` or `@` inside a placeholder, as in
    `${file:/run/secrets/password}`, does not count."""
    masked = _PLACEHOLDER.sub(lambda found: "$" * len(found[0]), text)
    found = _USER_INFO.match(masked)
    return range(*found.span(1)) if found is not None else range(0)


def _value(found: re.Match[str], environment: Mapping[str, str]) -> tuple[str, Path | None, bool]:
    """The value of a placeholder, the file it was read from, and whether it is probably secret."""
    inside: str | None = found[1]
    if inside is None:
        raise PlaceholderError(f"has a '${{' that is not closed, or another one inside it ({FORMS})")
    variable = _VARIABLE.fullmatch(inside)
    if variable is not None:
        return _of_variable(variable, environment), None, is_secretish(variable[1])
    if inside.startswith("file:") and inside != "file:":
        path = Path(inside.removeprefix("file:"))
        return _content(path), path, True
    shown = inside.partition(":-")[0]  # a default can be a password
    raise PlaceholderError(f"has an unknown placeholder, found '${{{shown}}}' ({FORMS})")


def _of_variable(variable: re.Match[str], environment: Mapping[str, str]) -> str:
    name, default = variable[1], variable[2]
    value = environment.get(name)
    if default is not None:
        value = value or default
    if value is None:
        raise PlaceholderError(f"the environment variable {name} is not set (set it, or write ${{{name}:-default}})")
    try:
        value.encode()
    except UnicodeEncodeError:  # Python keeps bytes that are not UTF-8 as lone surrogates (PEP 383)
        raise PlaceholderError(f"the environment variable {name} does not hold UTF-8 text") from None
    return value


def _content(path: Path) -> str:
    """The stripped text of a regular file. A pipe or a device could block the reader indefinitely."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise PlaceholderError(f"the file '{path}' is not a regular file")
        with path.open("rb") as file:
            content = file.read(LARGEST_FILE + 1)
        if len(content) > LARGEST_FILE:
            raise PlaceholderError(f"the file '{path}' is larger than 1MiB")
        return content.decode().strip()
    except OSError as error:
        raise PlaceholderError(f"the file '{path}' cannot be read: {error.strerror or type(error).__name__}") from None
    except ValueError:  # not UTF-8, or a NUL in the path
        raise PlaceholderError(f"the file '{path}' does not hold UTF-8 text") from None
