"""The recipes of docs/cookbook: each has a configuration and policy tests, and the tests pass with full coverage."""

import re
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from tests.docs.configured import passes
from tests.docs.pages import DOCS

INDEX = DOCS / "cookbook/README.md"
PAGES = sorted(page for page in INDEX.parent.glob("*.md") if page != INDEX)


class Recipe(NamedTuple):
    page: Path
    title: str
    configuration: str
    tests: str

    def __str__(self) -> str:
        return self.title

    @property
    def link(self) -> str:
        return f"{self.page.name}#{re.sub(r'[^a-z0-9 -]', '', self.title.lower()).replace(' ', '-')}"


def recipes(page: Path) -> list[Recipe]:
    """The sections of a page. The first block of each is the configuration, the second one its tests."""
    found = []
    for section in re.split(r"^## ", page.read_text(), flags=re.MULTILINE)[1:]:
        title, _, text = section.partition("\n")
        configuration, tests = re.findall(r"^```yaml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
        found.append(Recipe(page, title, configuration, tests))
    return found


RECIPES = [recipe for page in PAGES for recipe in recipes(page)]


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
def test_a_recipe_passes_its_own_tests(recipe: Recipe, tmp_path: Path) -> None:
    passes(recipe.configuration, recipe.tests, tmp_path)


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
def test_the_tests_of_a_recipe_allow_and_refuse(recipe: Recipe) -> None:
    cases = yaml.safe_load(recipe.tests)
    assert any(case.get("allow") for case in cases)
    assert any(case.get("deny") for case in cases) or "auth: optional" in recipe.configuration


def test_the_index_lists_the_thirty_recipes_in_their_order() -> None:
    assert len(RECIPES) == 30
    order = ["people.md", "requests.md", "credentials.md"]
    links = [recipe.link for recipe in sorted(RECIPES, key=lambda recipe: order.index(recipe.page.name))]
    assert re.findall(r"^\| \[.*?\]\((.*?)\)", INDEX.read_text(), re.MULTILINE) == links
