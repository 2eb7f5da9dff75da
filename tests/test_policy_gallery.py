"""The gallery of docs/policy.md shows the real output of its commands."""

from pathlib import Path

import pytest

from tests.gallery import DOCUMENT, blocks, commands, output, prepare

SHOWN = [shown for block in blocks(DOCUMENT.read_text(encoding="utf-8")) for shown in commands(block)]


@pytest.mark.parametrize(("line", "shown"), SHOWN, ids=[line for line, _ in SHOWN])
def test_a_command_of_the_gallery_prints_the_shown_text(line: str, shown: str, tmp_path: Path) -> None:
    prepare(tmp_path)
    assert output(line, tmp_path) == shown, "python -m tests.gallery writes the gallery anew"


def test_the_gallery_is_not_empty() -> None:
    assert len(SHOWN) >= 3
