"""Pages of the documentation as a reader follows them: files to write, commands to run, output to compare."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.support.processes import PROJECT

DOCS = PROJECT / "docs"
OUTPUT = ("text", "json", "http")


class Block(NamedTuple):
    """A fenced block. `title` is the text of `title="…"` behind the language."""

    line: int
    language: str
    title: str
    text: str


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for found in re.finditer(r"^```([\w-]+)([^\n]*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        title = re.search(r'title="([^"]*)"', found[2])
        yield Block(text.count("\n", 0, found.start()) + 2, found[1], title[1] if title else "", found[3])


class File(NamedTuple):
    """A block whose title is a path."""

    path: str
    text: str


class Command(NamedTuple):
    """A shell block, and the output that the page shows below it."""

    line: int
    text: str
    output: str | None = None


class Terminal(NamedTuple):
    """A shell block with the title `Terminal …`, whose last command runs until the end."""

    line: int
    text: str


Step = File | Command | Terminal


def steps(page: Path) -> list[Step]:
    """The steps of a page, in its order."""
    found: list[Step] = []
    for block in blocks(page):
        last = found[-1] if found else None
        if block.language == "sh":
            is_terminal = block.title.startswith("Terminal")
            found.append(Terminal(block.line, block.text) if is_terminal else Command(block.line, block.text))
        elif block.title:
            found.append(File(block.title, block.text))
        elif block.language in OUTPUT and isinstance(last, Command) and last.output is None:
            found[-1] = last._replace(output=block.text)
    return found


def matches(shown: str, real: str) -> bool:
    """Whether the output is the one that the page shows. `…` stands for any text."""
    pattern = ".*?".join(re.escape(part) for part in shown.strip().split("…"))
    return re.fullmatch(pattern, real.replace("\r\n", "\n").strip(), re.DOTALL) is not None
