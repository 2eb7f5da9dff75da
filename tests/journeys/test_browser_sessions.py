"""Sessions of browsers: begun, used, confirmed and ended on one process and on two replicas."""

import re
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

import pytest

from gateway.identity.api_keys import new_key
from gateway.identity.session_cookie import new_cookie
from tests.journeys.deployments import Deployment
from tests.journeys.test_journey import soon
from tests.support.browsers import COOKIE, OWN_PAGE, Browser
from tests.support.expectations import passes
from tests.support.processes import PASSWORD, Account, Gateway
from tests.support.recording import RecordingUpstream
from tests.support.scale import scaled
from tests.support.waiting import eventually, promised
from tests.support.websockets import Socket, echoing, text
from tests.support.wording import bearer, request

ATTRIBUTES = "; Path=/; Secure; HttpOnly; SameSite=Lax"


@pytest.fixture
def account(deployment: Deployment) -> Account:
    return deployment.first.newcomer()


@pytest.fixture
def browser(deployment: Deployment, account: Account) -> Browser:
    signed_in = Browser(deployment.first)
    signed_in.sign_in(account.email)
    return signed_in


def status(browser: Browser, gateway: Gateway | None = None) -> tuple[int, str | None]:
    answer = (browser if gateway is None else browser.at(gateway)).get("/api/x")
    return (200, None) if answer.status == 200 else answer.refused()


def test_a_browser_signs_in_calls_and_signs_out(
    deployment: Deployment, account: Account, upstream: RecordingUpstream
) -> None:
    browser = Browser(deployment.first)
    assert browser.session() == {"signed_in": False}
    answer = browser.sign_in(account.email)
    assert answer.value("set-cookie") == f"{COOKIE}={browser.cookie}{ATTRIBUTES}".encode()
    assert re.fullmatch("gws_[0-9A-Za-z]{38}", browser.cookie or "")
    session = answer.json()
    assert session == browser.session() | {"idle_until": session["idle_until"]}
    assert (session["signed_in"], session["acr"], session["amr"], session["methods"]) == (
        True,
        "aal1",
        ["pwd"],
        ["password"],
    )
    assert session["user"]["id"] == account.id and session["user"]["email"] == account.email
    assert (session["user"]["email_verified"], session["user"]["has_password"]) == (False, True)
    life = datetime.fromisoformat(session["expires_at"]) - datetime.fromisoformat(session["authenticated_at"])
    assert round(life.total_seconds()) == 7 * 86400
    assert b"gws_" not in answer.body and b"access_token" not in answer.body
    for gateway in deployment.all:
        received = passes(gateway, upstream, request("/api/x", fields=[f"{browser.line}; theme=dark"]))
        assert received.values("x-user-id") == [account.id.encode()]
        assert received.values("cookie") == [b"theme=dark"]
        assert browser.at(gateway).get("/auth/me").json()["id"] == account.id
    (listed,) = [each for each in browser.get("/auth/sessions").json()["sessions"] if each["is_current"]]
    assert (listed["id"], listed["kind"]) == (session["id"], "browser")
    before, ended = browser.at(deployment.first), browser.sign_out()
    assert (ended.status, browser.cookie) == (204, None)
    assert ended.value("set-cookie") == f"{COOKIE}={ATTRIBUTES}; Max-Age=0".encode()
    assert ended.value("clear-site-data") == b'"cache"'
    assert status(before) == (401, "token_revoked")
    assert before.session() == {"signed_in": False}
    assert browser.sign_out().status == before.sign_out().status == 204


def test_a_cookie_survives_the_browser_only_on_request(deployment: Deployment, account: Account) -> None:
    browser = Browser(deployment.first)
    answer = browser.sign_in(account.email, remember=True)
    age = re.fullmatch(rf"{COOKIE}=gws_\w+{ATTRIBUTES}; Max-Age=(\d+)", (answer.value("set-cookie") or b"").decode())
    assert age and 30 * 86400 - 5 <= int(age[1]) <= 30 * 86400
    assert answer.json()["idle_until"] is None


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"password": "wrong one"}, (401, "invalid_credentials")),
        ({"email": "nobody@example.com"}, (401, "invalid_credentials")),
        ({"remember": "yes"}, (422, "invalid_fields")),
        ({"token": "x"}, (422, "invalid_fields")),
    ],
)
def test_a_sign_in_that_fails_sets_no_cookie(
    deployment: Deployment, account: Account, body: dict[str, str], expected: tuple[int, str]
) -> None:
    browser = Browser(deployment.first)
    answer = browser.post("/auth/session", {"email": account.email, "password": PASSWORD, **body})
    assert answer.refused() == expected
    assert answer.values("set-cookie") == []


def test_ghsa_f24x_5g9q_753f_a_sign_in_makes_a_new_session_and_ends_the_old_one(
    deployment: Deployment, account: Account, browser: Browser
) -> None:
    """Also GHSA-2ccf-ffrj-m4qw: after the sign-in, a cookie that an attacker planted or saw is worth nothing."""
    before = browser.at(deployment.first)
    status(before, deployment.second)
    browser.sign_in(account.email)
    since = time.monotonic()
    assert browser.cookie != before.cookie
    soon(deployment, since, lambda gateway: status(before, gateway) == (401, "token_revoked"))
    other = deployment.first.newcomer()
    second = browser.at(deployment.first)
    browser.sign_in(other.email)
    soon(deployment, time.monotonic(), lambda gateway: status(second, gateway) == (401, "token_revoked"))
    assert browser.get("/auth/me").json()["id"] == other.id


COOKIES = {
    "quoted name": '"{name}"={value}',
    "quoted value": '{name}="{value}"',
    "no name": "={name}={value}",
    "only the value": "{value}",
    "lower case": "__host-http-session={value}",
    "upper case": "__HOST-HTTP-SESSION={value}",
    "another prefix": "Host__Http-session={value}",
    "without the prefix": "session={value}",
    "the prefix of other servers": "__Host-session={value}",
    "twice": "{name}={value}; {name}={value}",
    "twice, one empty": "{name}={value}; {name}=",
    "twice, one malformed": "{name}=x; {name}={value}",
    "in two fields": "{name}={value}\r\nCookie: {name}={value}",
    "cut off": "{name}={cut}",
    "a wrong check sum": "{name}={cut}_",
    "longer": "{name}={value}0",
    "percent-encoded": "{name}=gws%5F{rest}",
    "a space before the name's end": "{name} ={value}",
    "another separator": "a=1, {name}={value}",
}


def test_werkzeug_1965_a_cookie_in_another_spelling_is_no_credential(deployment: Deployment, browser: Browser) -> None:
    """Also GHSA-jjmg-x456-w976: `Host__` for `__Host-`."""
    value = browser.cookie or ""
    for name, spelling in COOKIES.items():
        cookie = spelling.format(name=COOKIE, value=value, cut=value[:-1], rest=value[4:])
        answer = deployment.first.get("/api/x", f"Cookie: {cookie}")
        assert answer.refused() == (401, "token_missing"), name
        assert answer.value("www-authenticate") == b"Bearer"
    assert status(browser) == (200, None)


def test_credentials_of_other_kinds_are_no_cookies_and_a_cookie_is_no_token(
    deployment: Deployment, account: Account, browser: Browser
) -> None:
    for value in (account.token, new_key(), new_cookie()[:-6], ""):
        refused = deployment.first.get("/api/x", f"Cookie: {COOKIE}={value}").refused()
        assert refused == (401, "token_missing")
    unknown = Browser(deployment.first, new_cookie())
    answer = unknown.get("/api/x")
    assert (answer.refused(), answer.value("www-authenticate")) == ((401, "token_invalid"), b"Bearer")
    for path in ("/api/x", "/auth/me"):
        assert deployment.first.get(path, bearer(browser.cookie or "")).refused() == (401, "token_invalid")


def test_beside_a_bearer_credential_the_cookie_is_not_looked_at(
    deployment: Deployment, account: Account, browser: Browser, upstream: RecordingUpstream
) -> None:
    other = deployment.first.newcomer()
    received = passes(deployment.first, upstream, request("/api/x", fields=[browser.line, other.line]))
    assert received.values("x-user-id") == [other.id.encode()]
    bad = deployment.first.get("/api/x", browser.line, bearer("nonsense"))
    assert bad.refused() == (401, "token_invalid")
    two = deployment.first.get("/api/x", browser.line, account.line, account.line)
    assert two.refused() == (401, "token_invalid")
    unproved = deployment.first.ask(request("/api/x", method="POST", fields=[browser.line, account.line], body=b""))
    assert unproved.status == 200, "programs with tokens prove nothing"


def test_on_another_host_a_cookie_is_no_credential(deployment: Deployment, account: Account, browser: Browser) -> None:
    def at(host: str, path: str, method: str = "GET") -> tuple[int, str | None]:
        asked = request(path, method=method, fields=[browser.line, OWN_PAGE], host=host)
        answer = deployment.first.ask(asked)
        assert answer.values("set-cookie") == []
        return (200, None) if answer.status == 200 else answer.refused()

    for host in ("other.test", "127.0.0.1", "gateway.test.evil.example"):
        assert at(host, "/api/x") == (401, "token_missing")
        assert at(host, "/auth/session", method="DELETE") == (403, "cross_site")
    for host in ("GATEWAY.test", "gateway.test.", "gateway.test:8443"):
        assert at(host, "/api/x") == (200, None)
    assert status(browser) == (200, None)


def test_a_request_that_can_change_something_comes_from_an_own_page(deployment: Deployment, browser: Browser) -> None:
    for method in ("POST", "PUT", "PATCH", "DELETE", "PURGE"):
        for fields in ((), ("Sec-Fetch-Site: same-site",), ("Origin: https://evil.example", OWN_PAGE)):
            assert browser.ask(method, "/api/x", *fields).refused() == (403, "cross_site")
        assert browser.ask(method, "/api/x", OWN_PAGE).status == 200
        assert browser.ask(method, "/api/x", "Origin: https://gateway.test").status == 200
        assert Browser(deployment.first, new_cookie()).ask(method, "/api/x").refused() == (403, "cross_site")
        assert Browser(deployment.first).ask(method, "/api/x").refused() == (401, "token_missing")


def test_other_sites_cannot_sign_a_browser_in_or_out(
    deployment: Deployment, account: Account, browser: Browser
) -> None:
    body = {"email": account.email, "password": PASSWORD}
    for fields in ((), ("Origin: null",), ("Origin: https://evil.example",), ("Sec-Fetch-Site: cross-site",)):
        for asking in (browser, Browser(deployment.first)):
            begun = asking.ask("POST", "/auth/session", *fields, body=body)
            assert (begun.refused(), begun.values("set-cookie")) == ((403, "cross_site"), [])
            assert asking.ask("DELETE", "/auth/session", *fields).refused() == (403, "cross_site")
            proof = asking.ask("POST", "/auth/session/confirm", *fields, body={"password": PASSWORD})
            assert proof.refused() == (403, "cross_site")
    assert status(browser) == (200, None)


def test_own_endpoints_take_the_cookie_from_own_pages(deployment: Deployment, browser: Browser) -> None:
    made = browser.post("/auth/api-keys", {"name": "ci"})
    assert made.status == 201
    assert browser.ask("POST", "/auth/api-keys", body={"name": "ci"}).refused() == (403, "cross_site")
    assert [key["name"] for key in browser.get("/auth/api-keys").json()["api_keys"]] == ["ci"]
    assert browser.get("/auth/users").refused() == (403, "forbidden")
    deployment.command("users", "set-roles", browser.get("/auth/me").json()["email"], "admin")
    eventually(lambda: browser.get("/auth/users").status == 200)
    assert browser.post("/auth/logout-all", {}).status == 204
    assert status(browser) == (401, "token_revoked")


# ---- the end


def _sign_out(deployment: Deployment, browser: Browser, _account: Account) -> None:
    assert browser.at(deployment.second).sign_out().status == 204


def _ended_elsewhere(deployment: Deployment, browser: Browser, account: Account) -> None:
    own = browser.session()["id"]
    path = f"/auth/sessions/{own}"
    assert deployment.second.ask(request(path, method="DELETE", fields=[account.line])).status == 204


def _logout_all(deployment: Deployment, _browser: Browser, account: Account) -> None:
    assert deployment.second.ask(request("/auth/logout-all", method="POST", fields=[account.line])).status == 204


def _disabled(deployment: Deployment, _browser: Browser, account: Account) -> None:
    deployment.command("users", "disable", account.email)


def _password(deployment: Deployment, _browser: Browser, account: Account) -> None:
    change = {"current_password": PASSWORD, "new_password": "another good password"}
    assert deployment.second.post("/auth/password", change, account.line).status == 204


def _revoked(deployment: Deployment, _browser: Browser, account: Account) -> None:
    deployment.command("users", "revoke", account.email)


ENDS: dict[str, tuple[Callable[[Deployment, Browser, Account], None], str]] = {
    "signed out": (_sign_out, "token_revoked"),
    "ended elsewhere": (_ended_elsewhere, "token_revoked"),
    "ended with all others": (_logout_all, "token_revoked"),
    "disabled": (_disabled, "user_inactive"),
    "another password": (_password, "token_revoked"),
    "revoked": (_revoked, "token_revoked"),
}


@pytest.mark.parametrize("way", ENDS)
def test_the_end_of_a_session_reaches_every_replica_and_its_websockets(
    deployment: Deployment, account: Account, browser: Browser, upstream: RecordingUpstream, way: str
) -> None:
    upstream.on("/sockets/x", echoing())
    end, code = ENDS[way]
    sockets = [Socket(gateway, "/sockets/x", browser.line, OWN_PAGE) for gateway in deployment.all]
    for gateway in deployment.all:
        assert status(browser, gateway) == (200, None)
    end(deployment, browser, account)
    since = time.monotonic()
    soon(deployment, since, lambda gateway: status(browser, gateway) == (401, code))
    for socket in sockets:
        assert socket.closed(within=promised(1.0) + deployment.propagation)[0] == 1008
        socket.close()
    assert time.monotonic() - since < 1.0 + deployment.propagation


def test_a_websocket_of_a_living_session_stays_open(
    deployment: Deployment, browser: Browser, upstream: RecordingUpstream
) -> None:
    upstream.on("/sockets/x", echoing())
    for gateway in deployment.all:
        with Socket(gateway, "/sockets/x", browser.line, OWN_PAGE) as socket:
            time.sleep(1.2)  # the watcher has looked twice, and has asked the store
            assert socket.say(text("still there")).message() == b"still there"
        refused = gateway.ask(_handshake(browser))
        assert refused.refused() == (403, "cross_site")


def _handshake(browser: Browser) -> bytes:
    fields = ("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13", browser.line)
    return request("/sockets/x", fields=[*fields, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="])


# ---- confirmation


def test_a_confirmation_makes_a_new_cookie_and_the_old_one_does_not_rise(
    deployment: Deployment, browser: Browser
) -> None:
    before = browser.at(deployment.first)
    began = before.session()["authenticated_at"]
    status(before, deployment.second)
    wrong = browser.post("/auth/session/confirm", {"password": "a guess"})
    assert (wrong.refused(), wrong.values("set-cookie")) == ((401, "invalid_credentials"), [])
    answer = browser.post("/auth/session/confirm", {"password": PASSWORD})
    assert answer.status == 200 and browser.cookie != before.cookie
    assert answer.json()["id"] == before.session()["id"], "it is the same session"
    assert answer.json()["authenticated_at"] > began
    for gateway in deployment.all:
        assert status(browser, gateway) == (200, None)
        assert status(before, gateway) == (200, None), "requests on their way"
        assert browser.at(gateway).session()["authenticated_at"] == answer.json()["authenticated_at"]
        assert before.at(gateway).session()["authenticated_at"] == began
    browser.sign_out()
    soon(deployment, time.monotonic(), lambda gateway: status(before, gateway) == (401, "token_revoked"))


def _confirmed(browser: Browser) -> tuple[int, str | None]:
    """Status and cookie of a confirmation."""
    answer = browser.post("/auth/session/confirm", {"password": PASSWORD})
    return answer.status, browser.cookie


def test_tabs_that_confirm_at_the_same_time_agree_on_one_cookie(deployment: Deployment, browser: Browser) -> None:
    """The browser keeps the cookie of the response that it reads last, in any order."""
    tabs = [browser.at(deployment.all[number % len(deployment.all)]) for number in range(scaled(100))]
    with ThreadPoolExecutor(len(tabs)) as threads:
        outcomes = list(threads.map(_confirmed, tabs))
    assert {code for code, _ in outcomes} <= {200, 503}, "a database that is too busy can refuse some"
    [cookie] = {cookie for code, cookie in outcomes if code == 200}
    assert cookie != browser.cookie
    for gateway in deployment.all:
        assert status(Browser(gateway, cookie)) == (200, None)
        assert status(browser, gateway) == (200, None), "requests on their way"


def test_a_session_that_ends_during_confirmations_stays_ended(deployment: Deployment, browser: Browser) -> None:
    tabs = [browser.at(deployment.all[number % len(deployment.all)]) for number in range(12)]
    with ThreadPoolExecutor(len(tabs) + 1) as threads:
        confirming = threads.map(_confirmed, tabs)
        assert threads.submit(browser.at(deployment.second).sign_out).result().status == 204
        outcomes = set(confirming)
    since = time.monotonic()
    assert {code for code, _ in outcomes} <= {200, 401, 503}
    for cookie in {cookie for _, cookie in outcomes} | {browser.cookie}:
        left = Browser(deployment.first, cookie)
        soon(deployment, since, lambda gateway, left=left: status(left, gateway)[0] == 401)  # type: ignore[misc]


def test_a_confirmation_by_token_makes_new_tokens_of_the_same_session(deployment: Deployment, account: Account) -> None:
    gateway = deployment.second
    tokens = gateway.post("/auth/login", {"email": account.email, "password": PASSWORD}).json()
    line = bearer(tokens["access_token"])
    (current,) = [each for each in gateway.get("/auth/sessions", line).json()["sessions"] if each["is_current"]]
    assert gateway.post("/auth/session/confirm", {"password": "a guess"}, line).refused()[0] == 401
    answer = gateway.post("/auth/session/confirm", {"password": PASSWORD}, line)
    assert answer.status == 200 and answer.values("set-cookie") == []
    confirmed = answer.json()
    assert set(confirmed) == {"access_token", "token_type", "expires_in", "refresh_token"}
    listed = gateway.get("/auth/sessions", bearer(confirmed["access_token"])).json()["sessions"]
    assert [each["id"] for each in listed if each["is_current"]] == [current["id"]]
    stolen = gateway.post("/auth/refresh", {"refresh_token": tokens["refresh_token"]})
    assert stolen.refused() == (401, "refresh_invalid"), "an old refresh token would get the new age"
    assert gateway.post("/auth/refresh", {"refresh_token": confirmed["refresh_token"]}).status == 200
    key = gateway.post("/auth/api-keys", {"name": "ci"}, line).json()["key"]
    refused = gateway.post("/auth/session/confirm", {"password": PASSWORD}, bearer(key))
    assert refused.refused() == (403, "forbidden")


def test_a_new_password_renews_the_cookie_and_ends_the_keys_on_request(
    deployment: Deployment, account: Account, browser: Browser
) -> None:
    key = browser.post("/auth/api-keys", {"name": "ci"}).json()["key"]
    for gateway in deployment.all:
        assert gateway.get("/api/x", bearer(key)).status == 200
    before, other = browser.at(deployment.first), Browser(deployment.second)
    other.sign_in(account.email)
    body = {"current_password": PASSWORD, "new_password": "another good password", "end_api_keys": True}
    answer = browser.post("/auth/password", body)
    assert answer.status == 204 and browser.cookie != before.cookie
    since = time.monotonic()
    soon(deployment, since, lambda gateway: gateway.get("/api/x", bearer(key)).refused() == (401, "token_revoked"))
    soon(deployment, since, lambda gateway: status(other, gateway) == (401, "token_revoked"))
    soon(deployment, since, lambda gateway: status(browser, gateway) == (200, None))
    assert browser.get("/auth/api-keys").json()["api_keys"] == []


# ---- requests without a session


def test_envoy_gateway_9820_requests_without_a_session_leave_no_cookie_behind(deployment: Deployment) -> None:
    """Also Envoy Gateway #7205: forty images and twelve tabs make no orphans, and every tab can sign in."""
    account = deployment.first.newcomer()

    def image(_: int) -> bool:
        answer = deployment.first.get("/api/x", "Sec-Fetch-Mode: cors", "Sec-Fetch-Dest: image")
        return answer.status == 401 and not answer.values("set-cookie")

    with ThreadPoolExecutor(12) as threads:
        assert all(threads.map(image, range(40)))
        tabs = [Browser(deployment.first) for _ in range(12)]
        assert {answer.status for answer in threads.map(lambda tab: tab.sign_in(account.email), tabs)} == {200}
        assert set(threads.map(status, tabs)) == {(200, None)}
    assert len({tab.cookie for tab in tabs}) == 12


def test_envoy_gateway_2507_a_reload_keeps_the_sessions(deployment: Deployment, browser: Browser) -> None:
    gateway = deployment.first
    if gateway.face != "serve":
        pytest.skip("another ASGI server has no reload")
    before = gateway.log().count("reload")
    gateway.signal(signal.SIGHUP)
    eventually(lambda: gateway.log().count("reload") > before)
    assert status(browser) == (200, None)
    assert browser.session()["signed_in"] is True
