"""Generate docs/configuration.md from the model: every key with its type, default and meaning.

After a change of the model, run `python -m gateway.settings.reference > docs/configuration.md`.
"""

import json
import re
from collections.abc import Iterator
from inspect import getdoc
from typing import Any, Final

from gateway.settings.declare import UNSET, Key
from gateway.settings.kinds_compound import ListOf, MapOf, Section
from gateway.settings.model import SettingsKind
from gateway.settings.reference_text import INTRODUCTION
from gateway.settings.scalars import plain_value
from gateway.settings.schema import section_of

_BARE: Final = re.compile(r"[A-Za-z0-9_./+-](?:[A-Za-z0-9_./+:-]*[A-Za-z0-9_./+-])?")


def reference() -> str:
    """The whole page, in Markdown."""
    root = SettingsKind()
    parts = [INTRODUCTION, "## Top-level keys", _table("", root)]
    for level, path, section in _below(2, "", root):
        parts += [f"{'#' * level} {path}", str(getdoc(section.cls)), _table(path, section)]
    return "\n\n".join(parts) + "\n"


def yaml_text(value: Any) -> str:
    """A value as one writes it in YAML, on one line."""
    if isinstance(value, list):
        return f"[{', '.join(map(yaml_text, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{name}: {yaml_text(each)}' for name, each in value.items())}}}"
    if isinstance(value, str) and _BARE.fullmatch(value) and isinstance(plain_value(value), str):
        return value
    return json.dumps(value)


def _below(level: int, path: str, section: Section[Any]) -> Iterator[tuple[int, str, Section[Any]]]:
    """The sections below one, with the levels of their headings."""
    for key in section.keys.values():
        below = section_of(key.kind)
        if below is not None:
            here = _path(path, key)
            yield level, here, below
            yield from _below(level + 1, here, below)


def _path(path: str, key: Key) -> str:
    """The path of a key's section: `upstreams.NAME` for those of free names, `routes[]` for the items of a list."""
    path = f"{path}.{key.name}" if path else key.name
    if isinstance(key.kind, MapOf):
        return f"{path}.NAME"
    return f"{path}[]" if isinstance(key.kind, ListOf) else path


def _table(path: str, section: Section[Any]) -> str:
    rows = [(f"`{key.name}`", _type(path, key), _default(key), key.about) for key in section.keys.values()]
    lines = [" | ".join(cell.replace("|", "\\|") for cell in row) for row in rows]
    return "\n".join(["| Key | Type | Default | Meaning |", "|---|---|---|---|", *(f"| {line} |" for line in lines)])


def _type(path: str, key: Key) -> str:
    words, below = key.kind.words, section_of(key.kind)
    if below is not None:
        anchor = re.sub(r"[^\w-]", "", _path(path, key).lower())
        words = f"[{words}](#{anchor})"
    return f"{words}, or null" if key.kind.nullable else words


def _default(key: Key) -> str:
    if key.is_required:
        return "required"
    if key.default is UNSET:
        return "not written"
    if isinstance(key.kind, Section) and not isinstance(key.default, str | None):
        return "see its section"
    return f"`{yaml_text(key.kind.written(key.default))}`"


if __name__ == "__main__":
    print(reference(), end="")
