"""The gallery of docs/policy.md: each `console` block contains commands with their real output.

`python -m tests.gallery` updates the output; a test fails if it differs from the commands' output. Commands run in a
folder with the project's config/ and docs/examples/, so that file names appear as for a user.
"""

import os
import re
import shlex
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from unittest import mock

from tests.cli.running import ROOT, run_here

DOCUMENT: Final = ROOT / "docs/policy.md"
_BLOCK: Final = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def commands(block: str) -> Iterator[tuple[str, str]]:
    """Each command line of a block with the text below it."""
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        line, _, shown = part.partition("\n")
        yield line, shown


def output(line: str, folder: Path) -> str:
    """The output of a command. An exit code other than 0 is its last line, as `(exit code 1)`."""
    program, *words = shlex.split(line)
    assert program == "gateway", line
    with mock.patch.dict(os.environ, COLUMNS="80"):
        outcome = run_here(*words, folder=folder)
    code = f"(exit code {outcome.code})\n" if outcome.code else ""
    return f"{outcome.out}{outcome.err}{code}"


def blocks(text: str) -> list[str]:
    return _BLOCK.findall(text)


def rewritten(text: str, folder: Path) -> str:
    """The document with the real output of its commands."""

    def block(found: re.Match[str]) -> str:
        shown = "".join(f"$ {line}\n{output(line, folder)}" for line, _ in commands(found[1]))
        return f"```console\n{shown}```"

    return _BLOCK.sub(block, text)


def prepare(folder: Path) -> None:
    """Copy the files that the commands of the gallery name."""
    for name in ("config", "docs/examples"):
        if (ROOT / name).exists():
            shutil.copytree(ROOT / name, folder / name, dirs_exist_ok=True)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        prepare(Path(temporary))
        DOCUMENT.write_text(rewritten(DOCUMENT.read_text(encoding="utf-8"), Path(temporary)), encoding="utf-8")
