"""The pages in Chromium: the way through a sign-in, the focus, the password that can be shown."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.chromium import Browser, browsing
from tests.support.fleet import Fleet
from tests.support.gateways import unhandled
from tests.support.processes import PASSWORD, Gateway, free_port
from tests.support.small import small


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder, fleet, port = tmp_path_factory.mktemp("pages"), Fleet("a"), free_port()
    configuration: dict[str, Any] = small(
        folder,
        {"app": fleet.urls[0]},
        routes=[{"path": "/private/**", "upstream": "app"}, {"path": "/", "upstream": "app", "auth": "optional"}],
        server={"public_url": f"http://127.0.0.1:{port}"},
        sessions={},
        accounts={"password": {"bcrypt_rounds": 4}, "registration_limit": None, "pages": {"languages": ["en", "de"]}},
    )
    started = Gateway("serve", configuration, folder)
    started.port = port
    started.start()
    yield started
    started.stop()
    fleet.stop()
    assert unhandled(started) == []


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browsing(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


@pytest.fixture
def browser(chromium: Browser, gateway: Gateway) -> Iterator[Browser]:
    """A browser without cookies at the sign-in page. It must have nothing to complain about at the end."""
    chromium.forget()
    chromium.go(f"http://127.0.0.1:{gateway.port}/account/sign-in")
    yield chromium
    refused = "Failed to load resource: the server responded with a status of 4"
    assert [text for text in chromium.complaints if not text.startswith(refused)] == []


def path_of(browser: Browser) -> str:
    path: str = browser.run("location.pathname + location.search")
    return path


def test_a_visitor_is_led_to_the_sign_in_page_and_back(browser: Browser, gateway: Gateway) -> None:
    email = gateway.newcomer().email
    browser.go(f"http://127.0.0.1:{gateway.port}/private/x?a=1")
    assert path_of(browser) == "/account/sign-in?return_to=%2Fprivate%2Fx%3Fa%3D1"
    browser.submit(email=email, password="wrong")
    assert "The e-mail address or the password is wrong." in browser.text()
    assert browser.run("document.activeElement.name") == "password"
    assert browser.run("document.activeElement.getAttribute('aria-describedby').trim()") == "reason"
    browser.submit(email=email, password=PASSWORD)
    assert path_of(browser) == "/private/x?a=1"
    [cookie] = browser.cookies()
    assert (cookie["name"], cookie["httpOnly"], cookie["sameSite"]) == ("session", True, "Lax")
    browser.go(f"http://127.0.0.1:{gateway.port}/account/sign-out")
    browser.submit()
    assert "You are signed out." in browser.text()
    assert browser.cookies() == []


def test_the_password_can_be_shown_and_is_hidden_before_it_is_sent(browser: Browser) -> None:
    def kind() -> str:
        text: str = browser.run("document.getElementById('password').type")
        return text

    press = "document.querySelector('[data-reveals]').click()"
    assert kind() == "password"
    browser.run(press)
    assert (kind(), "Hide password" in browser.text()) == ("text", True)
    browser.run(press)
    assert (kind(), "Show password" in browser.text()) == ("password", True)
    browser.run(press)
    script = "document.forms[0].addEventListener('submit', event => event.preventDefault())"
    browser.run(f"{script}; document.forms[0].noValidate = true; document.forms[0].requestSubmit()")
    assert kind() == "password"


def test_another_language_is_one_click_away(browser: Browser) -> None:
    browser.follow("document.querySelector('[hreflang=de]')")
    assert browser.run("document.documentElement.lang") == "de"
    assert "Anmelden" in browser.text()


def test_a_refused_page_shows_the_reason_in_place(browser: Browser, gateway: Gateway) -> None:
    browser.go(f"http://127.0.0.1:{gateway.port}/nowhere")
    assert path_of(browser) == "/nowhere"
    assert "Page not found" in browser.text()
