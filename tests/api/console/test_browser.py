"""The console in a real browser: sign-in, WCAG 2.2 AA by axe-core, narrow windows, and no request elsewhere.

With GATEWAY_SCREENSHOTS, it writes the pictures of docs/console.md.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest

from tests.api.console.console_pages import ROUTES, configured, pictures, views
from tests.support.axe import axe_core, show, violations
from tests.support.chromium import Browser, browsing
from tests.support.fleet import Fleet
from tests.support.processes import PASSWORD, PROJECT, Gateway
from tests.support.small import small
from tests.support.waiting import eventually

ADMIN = "admin@example.com"
CONSOLE = "/_gateway/console"
# The views in docs/console.md. Compress the files before a commit.
PICTURES = (
    *(("overview", "light", 1280), ("overview", "dark", 1280), ("overview", "light", 360), ("overview", "dark", 360)),
    *(("routes", "light", 1280), ("route", "light", 1280), ("matrix", "light", 1280), ("matrix", "dark", 360)),
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browsing(tmp_path_factory.mktemp("chromium")) as started:
        yield started


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Every view, with made-up traffic."""
    folder = tmp_path_factory.mktemp("console")
    return dict(views(configured(folder), configured(folder, [{"path": "/x", "upstream": "shop"}]), "orders-long/name"))


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder, fleet = tmp_path_factory.mktemp("gateway"), Fleet("a")
    users = {"path": "/users/{id}/**", "upstream": "web", "name": "users", "roles": ["editor"], "owner": "id"}
    configuration = small(folder, {"web": fleet.urls}, routes=[users])
    gateway = Gateway("serve", {**configuration, "roles": {"admin": ["editor"], "editor": []}}, folder).start()
    gateway.command("users", "create", ADMIN, "--role", "admin", "--password-stdin", input=f"{PASSWORD}\n")
    yield gateway
    gateway.stop()
    fleet.stop()


def test_axe_finds_no_violation_in_any_view_in_both_schemes(browser: Browser, html: dict[str, str]) -> None:
    browser.run(axe_core())
    assert violations(browser, html) == {}


def test_no_view_scrolls_sideways_at_360_pixels_or_with_text_of_twice_the_size(
    browser: Browser, html: dict[str, str]
) -> None:
    browser.resize(360)
    wide = []
    for name, text in html.items():
        show(browser, text)
        for size in ("100%", "200%"):
            browser.run(f"document.documentElement.style.fontSize = {size!r}")
            if browser.run("document.documentElement.scrollWidth") > 360:
                wide.append((name, size))
    browser.resize(1280)
    assert wide == []


def test_the_navigation_keeps_its_words_whole_on_narrow_screens(browser: Browser, html: dict[str, str]) -> None:
    show(browser, html["overview"])
    heights = []
    for width in (290, 1280):  # a scroll bar takes a part of 320
        browser.resize(width)
        links = "[...document.querySelectorAll('.bar nav a')]"
        heights.append(browser.run(f"{links}.map(link => link.getBoundingClientRect().height)"))
    assert heights[0] == heights[1] != []


def test_a_browser_signs_in_looks_and_signs_out(browser: Browser, gateway: Gateway) -> None:
    address = f"http://127.0.0.1:{gateway.address[1]}{CONSOLE}"
    browser.forget()
    for path in ("/web/x", "/users/1/x", "/nothing"):
        gateway.get(path)
    browser.go(address)
    browser.submit(username=ADMIN, password="wrong password")
    assert "Invalid email or password" in browser.text()
    browser.submit(username=ADMIN, password=PASSWORD)
    eventually(lambda: "Sign out" in browser.text(), timeout=10, every=0.1)
    (cookie,) = browser.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"], cookie["path"]) == (True, "Strict", CONSOLE)
    assert browser.run("document.cookie") == ""
    queries = {view: {"view": view} for view in ("overview", "routes", "matrix", "explain")}
    for query in [*queries.values(), {"view": "route", "name": "users"}, {"view": "matrix", "compare": "1"}]:
        browser.go(f"{address}?{urlencode(query)}")
        assert browser.run("getComputedStyle(document.querySelector('nav')).display") == "flex", "the style is applied"
        assert browser.run("performance.getEntriesByType('resource').length") == 0, "no request elsewhere"
    browser.go(f"{address}?view=routes")
    browser.submit(q="users")
    assert "/users/{id}/**" in browser.text() and "/web/**" not in browser.text()
    browser.follow("document.querySelector('tbody a')")
    assert "role editor, or the user {id}" in browser.text() and "token_missing" in browser.text()
    browser.go(f"{address}?view=explain")
    browser.submit(method="GET", url="/users/1/x", roles="user")
    assert "forbidden" in browser.text()
    browser.run("document.querySelector('header button').click()")
    eventually(lambda: "For administrators" in browser.text(), timeout=10, every=0.1)
    assert browser.cookies() == []
    assert [complaint for complaint in browser.complaints if "Content Security Policy" in complaint] == []


@pytest.mark.skipif("GATEWAY_SCREENSHOTS" not in os.environ, reason="pictures are taken on request")
def test_pictures_for_the_documentation(browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # so that the file has a short name
    routes = [route for route in ROUTES if route["path"] != "/audit/**"]
    routes = [{**route, "roles": ["user"]} if route["path"] == "/orders/{id}" else route for route in routes]
    html = dict(pictures(configured(Path()), configured(Path(), routes)))
    for view, scheme, width in PICTURES:
        show(browser, html[view])
        browser.prefer(scheme)
        browser.resize(width)
        if width == 1280:
            browser.resize(width, browser.run("document.documentElement.scrollHeight"))
        browser.screenshot(PROJECT / f"docs/images/console-{view}-{scheme}-{width}.png")
