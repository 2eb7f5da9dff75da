"""The JSON Schema agrees with the reader, and the page in docs/ with the model."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml

from gateway.settings.declare import UNSET
from gateway.settings.documentation import reference, yaml_text
from gateway.settings.model import SettingsKind
from gateway.settings.reader import INVALID, Reader
from gateway.settings.schema import json_schema, sections
from gateway.settings.types_compound import Section
from gateway.settings.yaml import compose
from tests.settings.reading import draft_of, problems_of
from tests.settings.test_complete_file import EVERYTHING

ROOT = Path(__file__).resolve().parents[2]
SECTIONS = list(sections(SettingsKind()))
KEYS = [
    pytest.param(section, key, id=f"{section.cls.__name__}.{key.name}")
    for section in SECTIONS
    for key in section.keys.values()
]


def test_the_schema_is_one_of_the_2020_12_draft() -> None:
    schema = json_schema()

    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    jsonschema_rs.meta.validate(schema)


def test_the_schema_that_editors_use_is_current() -> None:
    assert json.loads((ROOT / "config/schema.json").read_text()) == json_schema()


def test_the_reference_is_current() -> None:
    assert (ROOT / "docs/configuration.md").read_text() == reference()


@pytest.mark.parametrize(
    ("module", "file"),
    [("gateway.settings.schema", "config/schema.json"), ("gateway.settings.documentation", "docs/configuration.md")],
)
def test_the_command_to_write_it_again_writes_it(module: str, file: str) -> None:
    written = subprocess.run([sys.executable, "-m", module], capture_output=True, check=True, cwd=ROOT, text=True)

    assert written.stdout == (ROOT / file).read_text()


@pytest.mark.parametrize(("section", "key"), KEYS)
def test_every_key_has_a_description_and_its_default(section: Section[Any], key: Any) -> None:
    described = section.definition()["properties"][key.name]

    assert described["description"].endswith((".", "…"))
    assert ("default" in described) == (not key.is_required and key.default is not UNSET)
    assert (key.name in section.definition()["required"]) == key.is_required


@pytest.mark.parametrize(("section", "key"), KEYS)
def test_every_default_equals_the_result_of_reading_it(section: Section[Any], key: Any) -> None:
    if key.is_required or key.default is UNSET:
        return
    reader = Reader("f", {})
    node = compose(yaml_text(key.kind.written(key.default)), reader.report_in)
    assert node is not None
    value = key.kind.read(node, "upstreams.x", reader)

    assert value is not INVALID
    assert value == key.default


@pytest.mark.parametrize("name", ["gateway.yaml", "demo.yaml", "compose.yaml"])
def test_the_schema_accepts_the_examples(name: str) -> None:
    validator = jsonschema_rs.Draft202012Validator(json_schema())

    validator.validate(yaml.safe_load((ROOT / "config" / name).read_text()))


def test_the_schema_accepts_every_key() -> None:
    jsonschema_rs.Draft202012Validator(json_schema()).validate(yaml.safe_load(EVERYTHING))


REFUSED = [
    "server: {prot: 1}",
    "server: {port: 65536}",
    "server: {port: '8000'}",
    "server: {paths: loose}",
    "server: {drain: 30}",
    "server: {max_body: 10MB}",
    "server: {host: ''}",
    "observability: {metrics: 'yes'}",
    "accounts: {prefix: auth}",
    "accounts: {default_roles: user}",
    "identity: {headers: {id: 'X User'}}",
    "upstreams: {web: {targets: []}}",
    "upstreams: {web: {}}",
    "upstreams: {web: {targets: ['http://h'], retry_budget: 2}}",
    "routes: [{path: /a}]",
    "routes: [{path: /a, upstream: web, roles: []}]",
    "routes: [{path: /a, upstream: web, roles: {some: [a]}}]",
    "routes: {path: /a}",
    "roles: {a: b}",
    "7",
]


@pytest.mark.parametrize("text", REFUSED)
def test_values_that_the_schema_refuses_are_refused_by_the_reader(text: str) -> None:
    assert not jsonschema_rs.Draft202012Validator(json_schema()).is_valid(yaml.safe_load(text))
    assert problems_of(text)


@pytest.mark.parametrize(
    "text",
    [
        "server: {port: '${PORT:-8000}', drain: '${D}', max_body: '${B}', paths: '${P}'}",
        "observability: {metrics: '${M}'}",
        "identity: {headers: {id: '${H}'}}",
    ],
)
def test_the_schema_accepts_a_placeholder_for_any_single_value(text: str) -> None:
    assert jsonschema_rs.Draft202012Validator(json_schema()).is_valid(yaml.safe_load(text))


def test_every_key_has_its_row_in_the_reference() -> None:
    rows = re.findall(r"^\| `(\w+)` \|", reference(), re.MULTILINE)

    assert sorted(rows) == sorted(key.name for section in SECTIONS for key in section.keys.values())


def test_the_problems_that_the_reference_shows_are_real() -> None:
    shown = re.findall(r"^config/gateway\.yaml:(.*)$", reference(), re.MULTILINE)
    text = (
        "server:\n  prot: 80\n  max_body: 10MB\nupstreams:\n  api: http://a\n  web: http://w\n\n"
        "routes:\n  - path: /a\n    upstream: api\n  - path: /b\n    upstream: web\n"
        "  - path: /c\n    upstream: billing\n"
    )

    assert problems_of(text) == shown


def test_the_placeholders_that_the_reference_shows_work() -> None:
    draft = draft_of("server:\n  port: ${PORT:-8000}\nstorage:\n  redis: ${REDIS_URL:-null}\n")

    assert draft.problems == ()


YAML_TEXTS = [
    ("10s", "10s"),
    ("", '""'),
    ("true", '"true"'),
    ("::1/128", '"::1/128"'),
    (["a", "no", "1"], '[a, no, "1"]'),
    ({"a": 1, "b": None}, "{a: 1, b: null}"),
    (0.2, "0.2"),
    (False, "false"),
]


@pytest.mark.parametrize(("value", "text"), YAML_TEXTS)
def test_values_are_shown_as_one_writes_them(value: object, text: str) -> None:
    assert yaml_text(value) == text
