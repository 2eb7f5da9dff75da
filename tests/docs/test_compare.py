"""The pages of docs/compare: each move ends in a configuration that passes its policy tests."""

import re
from pathlib import Path

import pytest

from tests.docs.configured import passes
from tests.docs.pages import DOCS, blocks

INDEX = DOCS / "compare/README.md"
PAGES = sorted(page for page in INDEX.parent.glob("*.md") if page != INDEX)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_configuration_of_a_move_passes_its_tests(page: Path, tmp_path: Path) -> None:
    configuration, tests = (block.text for block in blocks(page) if block.language == "yaml")
    passes(configuration, tests, tmp_path, "--strict")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_says_when_not_to_move_and_how_to(page: Path) -> None:
    text = page.read_text()
    assert re.search(r"^\*\*Keep ", text, re.MULTILINE)
    assert "## Move" in text
    assert f"]({page.name})" in INDEX.read_text()
