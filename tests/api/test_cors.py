"""CORS of the JSON endpoints for accounts: pages of `sessions.origins` with cookies, of `accounts.origins` without."""

import pytest

from tests.support.browsers import HOST, SETTINGS, Browser
from tests.support.gateways import Gateways
from tests.support.processes import Face, Gateway
from tests.support.raw import Answer
from tests.support.wording import request

WITH_COOKIES = "https://admin.gateway.test"
WITHOUT = "https://app.example"
EVIL = "https://evil.example"
NOT_LISTED = (
    EVIL,
    "null",
    "",
    f"{WITH_COOKIES}.evil.example",
    f"{WITH_COOKIES}:443",
    f"{WITH_COOKIES}/",
    "https://evil-admin.gateway.test",
    "http://admin.gateway.test",
    f"{WITH_COOKIES}, {WITH_COOKIES}",
)


@pytest.fixture(scope="module", params=["serve", "asgi"])
def gateway(request: pytest.FixtureRequest, gateways: Gateways) -> Gateway:
    face: Face = request.param
    sessions = SETTINGS["sessions"] | {"origins": [WITH_COOKIES]}
    accounts: dict[str, object] = {"origins": [WITHOUT]}
    return gateways.gateway("accounts-cors", face, server=SETTINGS["server"], sessions=sessions, accounts=accounts)


def preflight(gateway: Gateway, path: str, origin: str, method: str = "POST") -> Answer:
    asked = [f"Origin: {origin}", f"Access-Control-Request-Method: {method}"]
    lines = [*asked, "Access-Control-Request-Headers: content-type"]
    return gateway.ask(request(path, method="OPTIONS", fields=lines, host=HOST), method="OPTIONS")


@pytest.mark.parametrize(("origin", "cookies"), [(WITH_COOKIES, b"true"), (WITHOUT, None)])
@pytest.mark.parametrize(("path", "method"), [("/auth/session", "POST"), ("/auth/login", "POST"), ("/auth/me", "GET")])
def test_a_listed_page_can_call_the_endpoints(
    gateway: Gateway, path: str, method: str, origin: str, cookies: bytes | None
) -> None:
    answer = preflight(gateway, path, origin, method)

    assert answer.status == 204
    assert answer.value("access-control-allow-origin") == origin.encode()
    assert answer.value("access-control-allow-credentials") == cookies
    assert method.encode() in (answer.value("access-control-allow-methods") or b"")
    allowed = (answer.value("access-control-allow-headers") or b"").lower()
    assert b"content-type" in allowed and b"authorization" in allowed


@pytest.mark.parametrize(
    ("path", "origin"),
    [
        *(("/auth/session", origin) for origin in NOT_LISTED),
        ("/auth/users", WITH_COOKIES),
        ("/auth/audit", WITHOUT),
    ],
)
def test_other_pages_and_administration_get_no_permission(gateway: Gateway, path: str, origin: str) -> None:
    answer = preflight(gateway, path, origin, "GET" if "session" not in path else "POST")

    assert answer.status in (403, 405)
    assert answer.value("access-control-allow-origin") is None


@pytest.mark.parametrize(("origin", "cookies"), [(WITH_COOKIES, b"true"), (WITHOUT, None)])
def test_a_listed_page_can_read_answers_and_refusals(gateway: Gateway, origin: str, cookies: bytes | None) -> None:
    for path in ("/auth/session", "/auth/me"):
        answer = gateway.ask(request(path, fields=[f"Origin: {origin}"], host=HOST))

        assert answer.status in (200, 401)
        assert answer.value("access-control-allow-origin") == origin.encode()
        assert answer.value("access-control-allow-credentials") == cookies


def test_a_page_of_a_listed_origin_signs_in_and_others_do_not(gateway: Gateway) -> None:
    body = {"email": "user@example.com", "password": "wrong one"}
    answers = [
        Browser(gateway).ask("POST", "/auth/session", f"Origin: {origin}", body=body)
        for origin in (WITH_COOKIES, WITHOUT, EVIL)
    ]

    assert [answer.refused() for answer in answers] == [
        (401, "invalid_credentials"),
        (403, "cross_site"),
        (403, "cross_site"),
    ]


def test_a_refusal_of_an_endpoint_is_readable_once(gateway: Gateway) -> None:
    answer = Browser(gateway).ask("POST", "/auth/login", f"Origin: {WITHOUT}", body={"email": "x"})

    assert answer.status == 422
    assert answer.values("access-control-allow-origin") == [WITHOUT.encode()]


@pytest.mark.parametrize("origin", [WITH_COOKIES, *NOT_LISTED])
def test_refusals_of_every_kind_say_for_whom_they_are_and_are_not_cached(gateway: Gateway, origin: str) -> None:
    listed = [origin.encode()] if origin == WITH_COOKIES else []
    for path, fields, body, status in (
        ("/auth/me", (), None, 401),
        ("/auth/login", ("Content-Type: application/json",), b"{", 400),
        ("/auth/login", ("Content-Type: text/xml",), b"{}", 415),
        ("/auth/login", ("Content-Type: application/json",), b"x" * 100_000, 413),
        ("/auth/session", ("Content-Type: application/json", "Sec-Fetch-Site: cross-site"), b"{}", 403),
    ):
        if status == 403 and listed:
            continue  # A listed Origin is the proof.
        method = "GET" if body is None else "POST"
        asked = request(path, method=method, fields=[f"Origin: {origin}", *fields], body=body, host=HOST)
        answer = gateway.ask(asked)

        assert answer.status == status
        assert answer.values("access-control-allow-origin") == listed
        assert (answer.value("vary"), answer.value("cache-control")) == (b"Origin", b"no-store")
