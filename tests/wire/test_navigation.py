"""The requests with which a browser opens a page."""

import pytest

from gateway.wire.fields import FieldRules
from gateway.wire.navigation import is_navigation, prefers_html, with_return_to

CHROMIUM = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"
OPENED = ["Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: document"]

NAVIGATIONS = [
    ("GET", OPENED),
    ("HEAD", OPENED),
    ("GET", [*OPENED, "Sec-Fetch-Site: cross-site", "Accept: application/json"]),
    ("GET", [*OPENED, "Authorization: Basic YTpi"]),
    ("GET", [f"Accept: {CHROMIUM}"]),
    ("GET", ["Accept: text/html"]),
    ("GET", ["Accept: text/*, application/json;q=0.9"]),
    ("GET", ["Accept: application/json;q=0.5", "Accept: text/html"]),
]
OTHERS = [
    ("GET", []),
    ("POST", OPENED),
    ("OPTIONS", OPENED),
    ("GET", ["Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: iframe"]),
    ("GET", ["Sec-Fetch-Mode: cors", "Sec-Fetch-Dest: empty", f"Accept: {CHROMIUM}"]),
    ("GET", ["Sec-Fetch-Mode: no-cors", "Sec-Fetch-Dest: image"]),
    ("GET", ["Sec-Fetch-Mode: navigate", f"Accept: {CHROMIUM}"]),
    ("GET", ["Sec-Fetch-Site: none", f"Accept: {CHROMIUM}"]),
    ("GET", [*OPENED, "Sec-Fetch-Mode: cors"]),
    ("GET", [*OPENED, "Authorization: Bearer x"]),
    ("GET", [*OPENED, "Authorization: bearer x"]),
    ("GET", [*OPENED, "Authorization: Basic YTpi", "Authorization: Basic YTpi"]),
    ("GET", [*OPENED, "Connection: Upgrade", "Upgrade: websocket"]),
    ("GET", [f"Accept: {CHROMIUM}", "X-Requested-With: XMLHttpRequest"]),
    ("GET", [f"Accept: {CHROMIUM}", "Upgrade: websocket"]),
    ("GET", ["Accept: */*"]),
    ("GET", ["Accept: text/html, application/json"]),
    ("GET", ["Accept: text/html;q=0, application/xhtml+xml"]),
    ("GET", ["Accept: application/json"]),
    ("GET", ["Accept: text/html" + ", a/b" * 1000]),
]


def judged(method: str, lines: list[str]) -> bool:
    pairs = (line.partition(": ") for line in lines)
    return is_navigation(
        method.encode(), FieldRules().sort([(name.encode(), value.encode()) for name, _, value in pairs])
    )


@pytest.mark.parametrize(("method", "lines"), NAVIGATIONS, ids=str)
def test_a_browser_opens_a_page(method: str, lines: list[str]) -> None:
    assert judged(method, lines)


@pytest.mark.parametrize(("method", "lines"), OTHERS, ids=lambda value: str(value)[:60])
def test_everything_else_is_no_navigation(method: str, lines: list[str]) -> None:
    assert not judged(method, lines)


@pytest.mark.parametrize("quality", ["nan", "inf", "1e9", "", "0.1.2", "-1", "0x1"])
def test_a_malformed_quality_prefers_nothing(quality: str) -> None:
    assert not prefers_html(f"text/html;q={quality}, application/json;q=1".encode())


def test_the_target_is_one_parameter_of_the_location() -> None:
    assert with_return_to("/account/sign-in", b"/a?b=1&c=%20") == "/account/sign-in?return_to=%2Fa%3Fb%3D1%26c%3D%2520"
    assert with_return_to("/login?from=gate", b"/a") == "/login?from=gate&return_to=%2Fa"
