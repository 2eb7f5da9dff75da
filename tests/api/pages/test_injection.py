"""Values of clients in pages: 200 payloads run nothing in Chromium, and add no element and no attribute."""

import json
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from typing import Any
from urllib.parse import quote

import pytest

from gateway.accounts.texts.catalogue import Catalogue
from gateway.api.pages.examples import examples
from gateway.api.pages.rendering import Form, LanguageLink, Page, Product, Renderer
from gateway.api.pages.site import PATHS
from gateway.api.pages.views import AccountView, AddressView, CreatedKeyView, DeniedView, KeyRow, LinkView, SessionRow
from tests.support.chromium import Browser, browsing
from tests.support.scale import WHOLE
from tests.support.xss import PAYLOADS

CATALOGUE = Catalogue.load(["en"])
MOMENT = next(page.data.sessions[0].began for name, page in examples(CATALOGUE, "en") if name == "account")
RENDERER = Renderer(CATALOGUE, Product("Northwind"))
# Without the policy of the pages, so that a script that a page lets in runs.
_SHOW = "for (const html of %s) { document.open(); document.write(html); document.close() }"


class Structure(HTMLParser):
    """The elements of a page with the names of their attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, list[str]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, [name for name, _ in attrs]))


def pages_with(text: str) -> Iterator[str]:
    """Pages with this text in every value that a client chooses."""
    urls: Mapping[str, str | None] = {name: f"{path}?return_to={quote(text)}" for name, path in PATHS.items()}
    fixed = {"logo": None, "home": "/", "back": "/"}
    form = Form(dict.fromkeys(("email", "name", "expires"), text), reason="No", focus="email")
    views: dict[str, Any] = {
        "forgot": None,
        "confirm": AddressView(text),
        "invitation": LinkView("intro", text, 8),
        "account": AccountView(
            text,
            True,
            True,
            True,
            (SessionRow("1", text, True, False, MOMENT, MOMENT, text),),
            (KeyRow("1", text, (text,), None, None),),
        ),
        "key_created": CreatedKeyView(text, text),
        "denied": DeniedView(text, text, True),
    }
    for template, view in views.items():
        links = (LanguageLink("en", "English", f"?lang=en&return_to={quote(text)}"),) * 2
        yield RENDERER.render(Page(template, "en", "Title", view, form, {**urls, **fixed}, links))[0]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browsing(tmp_path_factory.mktemp("chromium")) as started:
        yield started


def test_the_corpus_has_200_payloads_that_differ() -> None:
    assert len(set(PAYLOADS)) == 200


def test_no_payload_adds_an_element_or_an_attribute() -> None:
    expected = [Structure(html).found for html in pages_with("plain")]
    for payload in PAYLOADS:
        assert [Structure(html).found for html in pages_with(payload)] == expected, payload


def test_no_payload_runs_in_chromium_even_without_the_policy_of_the_pages(browser: Browser) -> None:
    for payload in PAYLOADS[:: 1 if WHOLE else 4]:
        forgot, _, _, account, *_ = pages_with(payload)  # every place of a value: attributes, addresses, texts
        browser.run(_SHOW % json.dumps([forgot, account]))
        assert browser.run("window.xss") is None, payload


def test_payloads_run_where_a_page_does_not_escape_them(browser: Browser) -> None:
    browser.run(_SHOW % json.dumps([f"<p>{PAYLOADS[0]}</p>"]))
    assert browser.run("window.xss") == 1
