"""The pages of docs/api describe the endpoints of openapi.yaml, and their examples run against one gateway."""

import re
import shutil
from pathlib import Path

import pytest

from tests.docs.reader import Reader
from tests.docs.sign_in_api import HEADING, PAGES, operations, rewritten


def test_each_endpoint_has_a_section_and_no_other() -> None:
    headings = [heading for page in PAGES for heading in re.findall(r"^## ([A-Z]+ /.*)$", page.read_text(), re.M)]
    assert sorted(headings) == sorted(name for name, _ in operations())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_text_of_each_section_is_that_of_the_openapi_document(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert rewritten(text) == text, "python -m tests.docs.sign_in_api updates the page"
    assert len(HEADING.findall(text)) == len(re.findall(r"^## [A-Z]+ /", text, re.MULTILINE))


@pytest.mark.skipif(shutil.which("bash") is None or shutil.which("curl") is None, reason="bash or curl is missing")
def test_the_examples_answer_as_the_pages_show(tmp_path: Path) -> None:
    with Reader(tmp_path) as reader:
        for page in PAGES:
            reader.follow(page)
