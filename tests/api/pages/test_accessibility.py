"""Every page in a real browser: WCAG 2.2 AA by axe-core, and narrow windows."""

from collections.abc import Iterator

import pytest

from gateway.accounts.texts.catalogue import SHIPPED, Catalogue
from gateway.api.pages.examples import examples
from gateway.api.pages.rendering import Product, Renderer
from tests.support.axe import RULES, axe_core, show, violations
from tests.support.chromium import Browser, browsing
from tests.support.scale import WHOLE

CATALOGUE = Catalogue.load(SHIPPED)
RENDERER = Renderer(
    CATALOGUE, Product("Northwind", terms="/terms", privacy="/privacy", support="mailto:help@example.com")
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    axe = axe_core()
    with browsing(tmp_path_factory.mktemp("chromium")) as started:
        started.run(axe)
        yield started


def pages(language: str) -> dict[str, str]:
    return {example.name: RENDERER.render(example.page)[0] for example in examples(CATALOGUE, language)}


# The pages of all languages have the same elements, so axe finds the same in them.
@pytest.mark.parametrize("language", SHIPPED if WHOLE else SHIPPED[:1])
def test_axe_finds_no_violation_in_any_page_in_both_schemes(browser: Browser, language: str) -> None:
    assert violations(browser, pages(language)) == {}


@pytest.mark.parametrize(
    ("change", "scheme", "rule"),
    [
        ("document.querySelector('label').remove()", "light", "label"),
        ("document.documentElement.style.setProperty('--soft', '#444')", "dark", "color-contrast"),
    ],
)
def test_axe_finds_violations_that_are_made_on_purpose(browser: Browser, change: str, scheme: str, rule: str) -> None:
    show(browser, pages("en")["sign-in"])
    browser.prefer(scheme)
    browser.run(change)
    assert any(one.startswith(rule) for one in browser.run(RULES[scheme], wait=True))


@pytest.mark.parametrize("language", SHIPPED)
def test_no_page_scrolls_sideways_at_320_pixels_or_with_text_of_twice_the_size(browser: Browser, language: str) -> None:
    browser.resize(320)
    wide = []
    for name, html in pages(language).items():
        show(browser, html)
        for size in ("100%", "200%"):
            browser.run(f"document.documentElement.style.fontSize = {size!r}")
            if browser.run("document.documentElement.scrollWidth") > 320:
                wide.append((name, size))
    assert wide == []


@pytest.mark.parametrize("language", SHIPPED)
def test_buttons_of_a_card_have_one_width_and_marks_one_line_at_320_pixels(browser: Browser, language: str) -> None:
    browser.resize(320)
    html = pages(language)
    for name in ("account", "account-unverified"):
        show(browser, html[name])
        buttons = "[...document.querySelectorAll('.actions .button, .actions button')]"
        assert len(set(browser.run(f"{buttons}.map(one => one.getBoundingClientRect().width)"))) == 1
        marks = "[...document.querySelectorAll('.tag')]"
        assert set(browser.run(f"{marks}.map(one => one.getClientRects().length)")) == {1}
