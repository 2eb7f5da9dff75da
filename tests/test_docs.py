"""The documentation is correct: commands, options, error codes and YAML in README.md and docs/."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click
import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from gateway.cli.program import program
from gateway.errors import CODES, ConfigurationError
from gateway.policy.loader import load_configuration
from gateway.settings.model import SettingsKind
from gateway.settings.schema import section_of
from gateway.settings.types_compound import Section

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [path for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))] if path.exists()]


class Fence(NamedTuple):
    """A fenced block of a document: its language, its text, and the line number of its text."""

    document: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.document.relative_to(ROOT)}:{self.line}"


def fences(document: Path) -> Iterator[Fence]:
    text = document.read_text(encoding="utf-8")
    for found in re.finditer(r"^( *)```([\w-]*)[^\n]*\n(.*?)^\1```$", text, re.MULTILINE | re.DOTALL):
        indent, language, body = found.groups()
        body = "".join(line.removeprefix(indent) for line in body.splitlines(keepends=True))
        yield Fence(document, text.count("\n", 0, found.start()) + 2, language, body)


FENCES = [fence for document in DOCUMENTS for fence in fences(document)]


class Mention(NamedTuple):
    """A gateway command in a document."""

    place: str
    line: str

    def __str__(self) -> str:
        return f"{self.place}: {self.line}"


def mentions(document: Path) -> Iterator[Mention]:
    """Every `gateway …` between backticks, and every such line in a shell block."""
    place = str(document.relative_to(ROOT))
    text = document.read_text(encoding="utf-8")
    prose = re.sub(r"^ *```.*?^ *```$", "", text, flags=re.MULTILINE | re.DOTALL)
    for found in re.findall(r"`((?:python -m )?gateway [^`\n]+)`", prose):
        yield Mention(place, found)
    for fence in fences(document):
        if fence.language in ("", "sh", "shell", "bash", "console"):
            for line in re.sub(r"\\\n\s*", " ", fence.text).splitlines():
                if found := re.match(r"\s*(?:\$ )?(?:\w+=\S* )*((?:python -m )?gateway [^#|>&]+)", line):
                    yield Mention(f"{fence}", found.group(1))


MENTIONS = [mention for document in DOCUMENTS for mention in mentions(document)]


@pytest.mark.parametrize("mention", MENTIONS, ids=str)
def test_a_command_that_the_documents_show_exists_with_its_options(mention: Mention) -> None:
    words = shlex.split(mention.line.removeprefix("python -m ").replace("…", ""))[1:]
    command: click.Command = program
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        child = command.get_command(click.Context(command), words[0])
        assert child is not None, f"{mention.place}: 'gateway {' '.join(words)}' is no command"
        command, words = child, words[1:]
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    for word in words:
        if word.startswith("["):  # `[--config F]`: an optional option
            word = word.strip("[]")
        if word.startswith("--"):
            option = word.partition("=")[0]
            assert option in known | {"--help"}, f"{mention.place}: '{mention.line}' has no {option}"


@pytest.mark.parametrize("name", sorted(program.list_commands(click.Context(program))))
def test_every_command_is_documented(name: str) -> None:
    assert any(re.search(rf"gateway {name}\b", mention.line) for mention in MENTIONS)


def error_rows() -> dict[str, tuple[int, str]]:
    """code -> (status, detail), from docs/errors.md."""
    text = (ROOT / "docs/errors.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d{3}) \| `(\w+)` \| (.+?) \| .+ \|$", text, re.MULTILINE)
    assert len({code for _, code, _ in rows}) == len(rows), "a code stands there twice"
    return {code: (int(status), detail) for status, code, detail in rows}


def test_the_documented_errors_are_the_ones_there_are() -> None:
    assert error_rows() == dict(CODES)


def configurations() -> list[Fence]:
    """The YAML blocks that are complete enough to define routes."""
    return [
        fence for fence in FENCES if fence.language == "yaml" and re.search(r"^(routes|upstreams):", fence.text, re.M)
    ]


@pytest.mark.parametrize("fence", configurations(), ids=str)
def test_a_configuration_that_the_documents_show_loads(
    fence: Fence, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shown = yaml.safe_load(fence.text)
    path = tmp_path / "gateway.yaml"
    path.write_text(with_files(fence.text, tmp_path) + missing_upstreams(shown), encoding="utf-8")
    try:
        load_configuration(path, dict.fromkeys(re.findall(r"\$\{(\w+)\}", fence.text), "sqlite:///from-environment.db"))
    except ConfigurationError as error:
        pytest.fail(f"{fence}\n{error}")


def with_files(text: str, folder: Path) -> str:
    """The text with every `${file:PATH}` replaced by an existing file: a key, or a password."""
    pem = ec.generate_private_key(ec.SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def made(found: re.Match[str]) -> str:
        file = folder / Path(found[1]).name
        file.write_bytes(pem if file.suffix == ".pem" else b"password")
        file.chmod(0o600)
        return f"${{file:{file}}}"

    return re.sub(r"\$\{file:([^}]+)\}", made, text)


def missing_upstreams(shown: dict[str, object]) -> str:
    """Definitions of the upstreams that a block's routes name but the block does not define."""
    routes = shown.get("routes") or []
    assert isinstance(routes, list)
    if "upstreams" in shown or not routes:
        return ""
    names = sorted({route["upstream"] for route in routes})
    return "\nupstreams:\n" + "".join(f"  {name}: http://127.0.0.1:9000\n" for name in names)


# Actions in the audit trail that begin like a section.
AUDIT_ACTIONS = {"sessions.ended", "mail.failed"}


def keys_of(section: Section[Any], path: str = "") -> Iterator[str]:
    """Every key below a section, dotted, without user-defined names."""
    for key in section.keys.values():
        yield f"{path}{key.name}"
        below = section_of(key.kind)
        if below is not None:
            yield from keys_of(below, f"{path}{key.name}.")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_key_that_a_document_names_exists(document: Path) -> None:
    known = set(keys_of(SettingsKind()))
    sections = {key for key in known if "." not in key}
    named = re.findall(r"`([a-z_]+(?:\.[a-z_]+)+)(?::[^`]*)?`", document.read_text(encoding="utf-8"))
    unknown = {key for key in named if key.partition(".")[0] in sections} - known
    assert unknown <= AUDIT_ACTIONS


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_an_error_that_a_document_names_exists(document: Path) -> None:
    named = re.findall(r"\b([45]\d\d) `([a-z_]+)`", document.read_text(encoding="utf-8"))
    assert [(status, code) for status, code in named if code not in CODES or CODES[code][0] != int(status)] == []


def prose_of(document: Path) -> str:
    """A document without its fenced blocks."""
    return re.sub(r"^ *```.*?^ *```$", "", document.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def anchors(document: Path) -> set[str]:
    """The anchors of a document's headings in rendered Markdown."""
    headings = re.findall(r"^#+ (.+)$", prose_of(document), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_within_the_project_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose_of(document)):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (document.parent / name).resolve() if name else document
        assert file.exists(), f"{document.name}: {target}"
        if anchor and file.suffix == ".md":
            assert anchor in anchors(file), f"{document.name}: {target}"


def test_every_action_of_the_audit_trail_is_documented_and_no_other() -> None:
    files = (path for path in (ROOT / "gateway/storage").glob("*.py") if path.name != "tables.py")
    sources = "".join(path.read_text(encoding="utf-8") for path in files)
    written = set(
        re.findall(r'"((?:user|sessions?|api_key|subject|audit|email|password|invitation|mail)\.[a-z_]+)"', sources)
    )
    text = (ROOT / "docs/administration.md").read_text(encoding="utf-8")
    documented = re.search(r"^Actions: (.+?)\.$", text, re.MULTILINE | re.DOTALL)
    assert documented is not None and set(re.findall(r"`([^`]+)`", documented[1])) == written


PAGES = [page for page in DOCUMENTS if page.parent != ROOT and "decisions" not in page.parts]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_page_opens_with_the_result_for_the_reader(page: Path) -> None:
    text = re.sub(r"<!--.*?-->\n\n", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert re.match(r"# [^\n]+\n\nAt the end of this page, ", text)
