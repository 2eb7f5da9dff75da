"""The JSON Schema of the configuration file, for editors. Generated from the model.

After a change of the model, run `python -m gateway.settings.schema > config/schema.json`.
"""

import json
from collections.abc import Iterator
from typing import Any, Final

from gateway.settings.model import SettingsKind
from gateway.settings.types import FieldType, JsonSchema
from gateway.settings.types_compound import ListOf, MapOf, Section, SetOf

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"

INTERPOLATED_DEFINITION: Final = {
    "description": "A placeholder: ${NAME}, ${NAME:-default} or ${file:PATH}.",
    "type": "string",
    "pattern": r"\$\{",
}


def json_schema() -> dict[str, Any]:
    """The schema (draft 2020-12). It excludes checks across several keys, which `gateway check` performs."""
    root = SettingsKind()
    definitions: JsonSchema = {"interpolated": INTERPOLATED_DEFINITION}
    for section in sections(root):
        if section is not root:
            definitions[section.cls.__name__] = {"description": section.cls.__doc__, **section.definition()}
    return {
        "$schema": DIALECT,
        "title": "Configuration of the gateway",
        "description": root.cls.__doc__,
        **root.definition(),
        "$defs": definitions,
    }


def sections(root: Section[Any]) -> Iterator[Section[Any]]:
    """A section and all its subsections. Each class is declared in one place."""
    yield root
    for key in root.keys.values():
        below = section_of(key.kind)
        if below is not None:
            yield from sections(below)


def section_of(kind: FieldType[Any]) -> Section[Any] | None:
    """The section of a value of this kind, or of its items."""
    while isinstance(kind, ListOf | MapOf | SetOf):
        kind = kind.kind
    return kind if isinstance(kind, Section) else None


if __name__ == "__main__":
    print(json.dumps(json_schema(), indent=2))
