"""/_gateway/verify for browsers with sessions: the cookie, and the redirect to the sign-in page."""

from collections.abc import Iterable
from urllib.parse import urlsplit

import pytest

from tests.support.browsers import HOST, OWN_PAGE, SETTINGS, Browser
from tests.support.gateways import Gateways
from tests.support.processes import Face, Gateway
from tests.support.raw import Answer
from tests.support.wording import request

OPENED = ("Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: document")
ADMIN = "https://admin.gateway.test:8443"
SIGN_IN = "/account/sign-in?return_to=%2Fapi%2Fx%3Fa%3D1"


@pytest.fixture(scope="module", params=["serve", "asgi"])
def gateway(request: pytest.FixtureRequest, gateways: Gateways) -> Gateway:
    face: Face = request.param
    server = SETTINGS["server"] | {"trusted_proxies": ["127.0.0.1/32"]}
    sessions = {"origins": [ADMIN]}
    routes = [{"path": "/stale/x", "upstream": "web", "fresh": "1ms"}]
    accounts: dict[str, object] = {"pages": {}}
    return gateways.gateway(
        "forward-browsers",
        face,
        routes=routes,
        server=server,
        sessions=sessions,
        accounts=accounts,
        tokens={"leeway": "0s"},
    )


@pytest.fixture(scope="module")
def browser(gateway: Gateway) -> Browser:
    signed_in = Browser(gateway)
    signed_in.sign_in("user@example.com")
    return signed_in


def verified(
    gateway: Gateway, path: str, fields: Iterable[str], *, method: str = "GET", host: str = HOST, option: str = ""
) -> Answer:
    about = [f"X-Forwarded-Method: {method}", f"X-Forwarded-Uri: {path}", f"X-Forwarded-Host: {host}"]
    return gateway.ask(request(f"/_gateway/verify{option}", fields=[*about, *fields]))


def test_a_cookie_is_a_credential_and_the_others_go_on(gateway: Gateway, browser: Browser) -> None:
    answer = verified(gateway, "/api/x", [f"{browser.line}; theme=dark", "Cookie: b=2"])

    assert answer.status == 200
    assert answer.value("x-user-email") == b"user@example.com"
    assert answer.value("x-gateway-cookie") == b"theme=dark; b=2"


def test_without_other_cookies_the_field_is_empty(gateway: Gateway, browser: Browser) -> None:
    assert verified(gateway, "/api/x", [browser.line]).value("x-gateway-cookie") == b""


@pytest.mark.parametrize(
    ("page", "expected"), [(OWN_PAGE, 200), ("Origin: https://evil.example", 403), ("X-A: b", 403)]
)
def test_a_request_that_writes_needs_the_proof(gateway: Gateway, browser: Browser, page: str, expected: int) -> None:
    answer = verified(gateway, "/api/x", [browser.line, page], method="POST")

    assert answer.status == expected
    assert expected == 200 or answer.refused() == (403, "cross_site")


@pytest.mark.parametrize(("host", "origin"), [(HOST, f"https://{HOST}"), ("admin.gateway.test:8443", ADMIN)])
def test_a_browser_that_navigates_is_sent_to_the_sign_in_page_of_its_host(
    gateway: Gateway, host: str, origin: str
) -> None:
    answer = verified(gateway, "/api/x?a=1", OPENED, host=host)

    assert (answer.status, answer.value("location")) == (303, (origin + SIGN_IN).encode())
    assert answer.value("vary") == b"Cookie, Sec-Fetch-Mode, Sec-Fetch-Dest, Accept"
    assert answer.value("cache-control") == b"no-store"
    assert answer.values("set-cookie") == []


def test_proxies_that_pass_on_no_redirect_get_the_address_in_a_field(gateway: Gateway) -> None:
    answer = verified(gateway, "/api/x?a=1", OPENED, option="?on-sign-in=401")

    assert answer.status == 401
    assert answer.value("x-gateway-location") == f"https://{HOST}{SIGN_IN}".encode()
    assert answer.value("location") is None
    assert answer.value("www-authenticate") == b"Bearer"


def test_a_sign_in_that_is_too_old_is_confirmed(gateway: Gateway, browser: Browser) -> None:
    asked = verified(gateway, "/stale/x", [browser.line, *OPENED], option="?a=b&on-sign-in=401")
    assert urlsplit((asked.value("x-gateway-location") or b"").decode()).path == "/account/confirm"


@pytest.mark.parametrize(
    ("fields", "host"),
    [((), HOST), ((*OPENED, "Authorization: Bearer x"), HOST), (OPENED, "other.example"), (("X-A: b",), HOST)],
    ids=str,
)
def test_other_requests_are_refused(gateway: Gateway, fields: tuple[str, ...], host: str) -> None:
    for option in ("", "?on-sign-in=401"):
        answer = verified(gateway, "/api/x", fields, host=host, option=option)

        assert answer.status == 401
        assert answer.value("x-gateway-location") is answer.value("location") is None


def test_a_proxied_navigation_is_redirected_within_its_host(gateway: Gateway) -> None:
    answer = gateway.ask(request("/api/x?a=1", fields=OPENED, host=HOST))

    assert (answer.status, answer.value("location")) == (303, SIGN_IN.encode())
    assert gateway.ask(request("/api/x?a=1", fields=["Sec-Fetch-Dest: image"], host=HOST)).status == 401
