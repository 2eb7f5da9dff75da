"""The pages of docs/start, followed from an empty folder to a signed-in request in the application.

The reader knows nothing but the page: its files, its commands, and the output that it shows.
"""

import shutil
from pathlib import Path

import pytest

from tests.docs.pages import DOCS, Command, File, matches, steps
from tests.docs.reader import Reader
from tests.support.express import express_packages
from tests.support.processes import PROJECT
from tests.support.react import CACHE, react_archives

PAGES = sorted((DOCS / "start").glob("*.md"))
FRAMEWORKS = ["django", "express", "fastapi", "flask", "php", "react"]

pytestmark = pytest.mark.skipif(
    shutil.which("bash") is None or shutil.which("curl") is None, reason="bash or curl is not installed"
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_leads_from_an_empty_folder_to_a_signed_in_request(page: Path, tmp_path: Path) -> None:
    if page.stem == "php" and shutil.which("php") is None:
        pytest.skip("php is not installed")
    node = express_packages() if page.stem == "express" else None
    if page.stem == "react":
        react_archives(CACHE)
    with Reader(tmp_path, node=node, cache=CACHE) as reader:
        reader.follow(page)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_shows_the_answer_for_a_signed_in_user_and_a_refusal(page: Path) -> None:
    shown = [step.output for step in steps(page) if isinstance(step, Command) and step.output]
    assert any("Buy milk" in output or "Hello ada@example.com" in output for output in shown)
    assert any('"code": "token_missing"' in output for output in shown)


@pytest.mark.parametrize(
    ("shown", "real", "is_equal"),
    [
        ("Hello …, this is /", "Hello ada, this is /\n", True),
        ("Hello …, this is /", "Hello ada, this is /reports\n", False),
        ("HTTP/1.1 204 No Content\n…", "HTTP/1.1 204 No Content\r\ndate: x\r\n\r\n", True),
        ('{"a": …}', '{"b": 1}', False),
        ("a.c", "abc", False),
    ],
)
def test_an_ellipsis_in_shown_output_stands_for_any_text(shown: str, real: str, is_equal: bool) -> None:
    assert matches(shown, real) is is_equal


def test_each_framework_has_a_page_and_an_example() -> None:
    assert {page.stem for page in PAGES} >= set(FRAMEWORKS)


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_the_files_of_a_page_are_those_of_the_example(name: str) -> None:
    example = PROJECT / "examples" / name
    shown = {step.path: step.text for step in steps(DOCS / f"start/{name}.md") if isinstance(step, File)}
    assert shown == {path: (example / path).read_text() for path in shown}
    beside = {"README.md", "react.js", "react-dom.js"}
    files = {str(path.relative_to(example)) for path in example.rglob("*.*") if path.name not in beside}
    assert {file for file in files if not file.endswith((".pyc", ".db", ".tgz"))} == set(shown)
