"""The console: access, contents, and isolation of its cookie."""

import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urlencode

import pytest

from tests.support.fleet import Fleet
from tests.support.gateways import unhandled
from tests.support.processes import PASSWORD, Gateway, free_port
from tests.support.raw import Answer, ask
from tests.support.small import Start, small, start
from tests.support.wording import request

__all__ = ["start"]

CONSOLE = "/_gateway/console"
FORM = "Content-Type: application/x-www-form-urlencoded"
ADMIN, PLAIN = "admin@example.com", "plain@example.com"
ROUTES: list[dict[str, Any]] = [
    {"path": "/users/{id}/**", "upstream": "web", "name": "users", "roles": ["editor"], "owner": "id"},
    {"path": "/<script>alert(1)</script>", "upstream": "web", "name": "<img/src=x/onerror=alert(2)>", "auth": "none"},
]


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    started = Fleet("a")
    yield started
    started.stop()


@pytest.fixture(scope="module")
def gateway(fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("console")
    roles = {"admin": ["editor"], "editor": ["user"], "user": []}
    gone = f"http://127.0.0.1:{free_port()}"
    upstreams: dict[str, str | list[str]] = {"web": fleet.urls, "gone": gone, "half": [gone, *fleet.urls]}
    upstreams["idle"] = fleet.urls
    routes = [{**route, "path": quote(str(route["path"]), safe="/{}*")} for route in ROUTES]
    configuration = small(folder, upstreams, routes=routes, accounts={"default_roles": ["user"]})
    gateway = Gateway("serve", {**configuration, "roles": roles}, folder).start()
    gateway.command("users", "create", ADMIN, "--role", "admin", "--password-stdin", input=f"{PASSWORD}\n")
    gateway.register(PLAIN)
    yield gateway
    gateway.stop()
    assert not unhandled(gateway)


def signing(gateway: Gateway, *lines: str, **form: str) -> Answer:
    body = urlencode(form).encode()
    return gateway.ask(request(CONSOLE, method="POST", fields=[FORM, *lines], body=body), timeout=15)


def signed_in(gateway: Gateway, email: str = ADMIN) -> str:
    """The cookie, as a browser returns it."""
    answer = signing(gateway, action="sign-in", username=email, password=PASSWORD)
    assert answer.status == 303, answer.body
    (cookie,) = answer.values("set-cookie")
    return f"Cookie: {cookie.decode().partition(';')[0]}"


def test_a_visitor_without_a_session_gets_only_the_form(gateway: Gateway) -> None:
    for query in (
        "",
        "?view=matrix&compare=1",
        "?view=routes",
        "?view=route&name=users",
        "?view=explain&url=/users/1/x",
    ):
        path = CONSOLE + query
        for lines in ((), ("Cookie: gateway_console=nonsense",), ("Cookie: gateway_console=a.b.c; x",)):
            answer = gateway.get(path, *lines)
            assert answer.status == 200
            assert b'type="password"' in answer.body
            assert b"users" not in answer.body


def test_the_page_may_load_and_run_nothing(gateway: Gateway) -> None:
    answer = gateway.get(CONSOLE)
    (policy,) = answer.values("content-security-policy")
    assert policy.startswith(b"default-src 'none'; style-src 'sha256-")
    assert b"unsafe" not in policy and b"script-src" not in policy
    assert b"frame-ancestors 'none'" in policy
    assert answer.values("cache-control") == [b"no-store"]
    assert answer.values("x-frame-options") == [b"DENY"]
    assert b"<script" not in answer.body


def test_an_administrator_signs_in_by_a_cookie_for_this_page_alone(gateway: Gateway) -> None:
    answer = signing(gateway, action="sign-in", username=ADMIN, password=PASSWORD)
    assert answer.status == 303
    assert answer.values("location") == [CONSOLE.encode()]
    (cookie,) = answer.values("set-cookie")
    attributes = {part.strip() for part in cookie.decode().split(";")[1:]}
    assert attributes == {f"Path={CONSOLE}", "Max-Age=900", "HttpOnly", "SameSite=Strict"}
    page = gateway.get(CONSOLE, signed_in(gateway)).body.decode()
    assert "Sign out" in page
    assert ADMIN in page


def test_the_cookie_is_no_credential_anywhere_else(gateway: Gateway) -> None:
    cookie = signed_in(gateway)
    for path in ("/auth/me", "/auth/users", "/users/1/x", "/_gateway/console/x"):
        assert gateway.get(path, cookie).status in (401, 404), path
    assert gateway.get(CONSOLE, "Authorization: Bearer " + cookie.partition("=")[2]).body.count(b"Sign in") > 0


@pytest.mark.parametrize(
    "value", ['"' + "\\" * 31_000 + '"', '"' + "\\1" * 15_500 + '"', "x; a" * 7_000, "=;" * 15_000]
)
def test_CVE_2024_7592_no_cookie_takes_long_to_read(gateway: Gateway, value: str) -> None:
    """Any client can send a cookie, and parsing it blocks all others."""
    began = time.monotonic()
    assert gateway.get(CONSOLE, f"Cookie: gateway_console={value}").status == 200
    assert time.monotonic() - began < 1.0


def test_one_cookie_among_others_counts_and_of_two_none(gateway: Gateway) -> None:
    cookie = signed_in(gateway).partition(": ")[2]
    for among in (f"a=b; ]odd[=1; {cookie}", f"{cookie};x", f'x="y;z"; {cookie} '):
        assert b"Sign out" in gateway.get(CONSOLE, f"Cookie: {among}").body
    for several in ([f"Cookie: {cookie}; {cookie}"], [f"Cookie: {cookie}", "Cookie: gateway_console=x"]):
        assert b"Sign out" not in gateway.get(CONSOLE, *several).body


def test_the_cookie_is_no_access_token_wherever_a_browser_takes_it(gateway: Gateway) -> None:
    """Other paths and ports can belong to upstreams: an upstream that receives the cookie cannot use it."""
    cookie = signed_in(gateway).partition("=")[2]
    for path in ("/auth/me", "/auth/users", "/users/1/x"):
        assert gateway.get(path, f"Authorization: Bearer {cookie}").refused() == (401, "token_invalid")


def test_the_console_takes_nothing_but_its_own_cookie(gateway: Gateway) -> None:
    admin = gateway.login(ADMIN)
    body = {"name": "for a machine", "roles": ["user"]}
    key = gateway.post("/auth/api-keys", body, admin.line).json()["key"]
    assert gateway.get("/auth/me", f"Authorization: Bearer {key}").status == 200, "from here on it is remembered"
    assert gateway.get("/auth/users", f"Authorization: Bearer {key}").status == 403
    for credential in (key, admin.line.decode().partition("Bearer ")[2]):
        assert b"Sign out" not in gateway.get(f"{CONSOLE}?view=matrix", f"Cookie: gateway_console={credential}").body


@pytest.mark.parametrize(
    ("trusted", "proto", "secure"),
    [
        ("127.0.0.1/32", "https", True),
        ("127.0.0.1/32", "HTTPS, http", True),
        ("127.0.0.1/32", "http", False),
        ("192.0.2.1/32", "https", False),
    ],
)
def test_behind_a_proxy_with_tls_the_cookie_is_for_tls_alone(
    start: Start, fleet: Fleet, trusted: str, proto: str, secure: bool
) -> None:
    gateway = start({"web": fleet.urls}, server={"trusted_proxies": [trusted]})
    answer = signing(gateway, f"X-Forwarded-Proto: {proto}", action="sign-out")
    (cookie,) = answer.values("set-cookie")
    assert cookie.endswith(b"; Secure") == secure


@pytest.mark.parametrize(("scheme", "secure"), [("http", False), ("https", True)])
def test_at_the_operations_port_the_cookie_suits_the_page(
    start: Start, fleet: Fleet, scheme: str, secure: bool
) -> None:
    """The port has no TLS. A browser drops a `Secure` cookie on a page in clear, and the sign-in would never end."""
    server = {"operations_port": free_port(), "public_url": "https://api.example.com"}
    gateway = start({"web": fleet.urls}, server=server)
    assert gateway.operations is not None
    host = f"127.0.0.1:{gateway.operations[1]}"
    fields = [FORM, f"Origin: {scheme}://{host}"]
    answer = ask(gateway.operations, request(CONSOLE, method="POST", host=host, fields=fields, body=b"action=sign-out"))
    (cookie,) = answer.values("set-cookie")
    assert cookie.endswith(b"; Secure") == secure


@pytest.mark.parametrize(
    ("form", "status", "message"),
    [
        ({"username": ADMIN, "password": "wrong password"}, 401, "Invalid email or password"),
        ({"username": "nobody@example.com", "password": PASSWORD}, 401, "Invalid email or password"),
        ({"username": PLAIN, "password": PASSWORD}, 403, "This page is for administrators"),
        ({"username": "<b>x</b>", "password": ""}, 422, ""),
        ({}, 422, ""),
    ],
)
def test_others_do_not_get_in(gateway: Gateway, form: dict[str, str], status: int, message: str) -> None:
    answer = signing(gateway, action="sign-in", **form)
    assert answer.status == status
    assert answer.values("set-cookie") == []
    assert message in answer.body.decode()
    assert b"<b>x" not in answer.body


def test_guessing_here_is_counted_with_guessing_at_the_login(gateway: Gateway) -> None:
    guessed = "guessed@example.com"
    for _ in range(5):
        assert signing(gateway, action="sign-in", username=guessed, password="wrong password").status == 401
    answer = signing(gateway, action="sign-in", username=guessed.upper(), password="wrong password")
    assert answer.status == 429 and answer.head.has("retry-after")
    other = gateway.post("/auth/login", {"email": guessed, "password": "wrong password"})
    assert other.refused() == (429, "locked_out")


@pytest.mark.parametrize(
    "line",
    [
        "Sec-Fetch-Site: cross-site",
        "Sec-Fetch-Site: same-site",
        "Origin: https://evil.example",
        "Origin: null",
        "Origin: http://[",
        "Origin: ",
    ],
)
def test_the_form_of_another_site_is_refused(gateway: Gateway, line: str) -> None:
    answer = signing(gateway, line, action="sign-in", username=ADMIN, password=PASSWORD)
    assert answer.refused() == (403, "origin_not_allowed")


def test_a_user_who_signs_out_or_is_demoted_loses_access_at_once(gateway: Gateway) -> None:
    cookie = signed_in(gateway)
    answer = signing(gateway, cookie, action="sign-out")
    assert answer.status == 303
    assert b"Max-Age=0" in answer.values("set-cookie")[0]
    assert b"Sign out" not in gateway.get(CONSOLE, cookie).body, "the session has ended, whoever kept the cookie"
    cookie = signed_in(gateway)
    assert b"Sign out" in gateway.get(CONSOLE, cookie).body
    other = gateway.login(ADMIN)
    assert gateway.ask(request("/auth/logout-all", method="POST", fields=[other.line])).status == 204
    assert b"Sign out" not in gateway.get(CONSOLE, cookie).body


def test_it_shows_recent_requests(gateway: Gateway) -> None:
    cookie = signed_in(gateway)
    for path in ("/web/x", "/users/1/x", "/gone/x", "/half/x") * 10:
        gateway.get(path)
    page = gateway.get(CONSOLE, cookie).body.decode()
    for state in ("✓ up", "✕ ejected", "✕ failing", "– not contacted yet"):
        assert f">{state}</span>" in page
    assert "401 token_missing" in page and "502 upstream_unreachable" in page
    assert gateway.process is not None
    assert f"Process {gateway.process.pid}" in page
    routes = gateway.get(f"{CONSOLE}?view=routes", cookie).body.decode()
    assert "/web/**" in routes and "/users/{id}/**" in routes
    route = gateway.get(f"{CONSOLE}?{urlencode({'view': 'route', 'name': '/gone/**'})}", cookie).body.decode()
    assert "502 upstream_unreachable" in route, "a failure of an upstream belongs to the route"


def test_under_another_server_a_failed_upstream_belongs_to_its_route_too(start: Start) -> None:
    gateway = start({"gone": f"http://127.0.0.1:{free_port()}"}, "asgi")
    gateway.command("users", "create", ADMIN, "--role", "admin", "--password-stdin", input=f"{PASSWORD}\n")
    cookie = signed_in(gateway)
    assert gateway.get("/gone/x").status == 502
    for path in ("", f"?{urlencode({'view': 'route', 'name': '/gone/**'})}"):
        assert "502 upstream_unreachable" in gateway.get(CONSOLE + path, cookie).body.decode()


def test_the_overview_leaves_its_own_requests_out(start: Start, fleet: Fleet) -> None:
    gateway = start({"web": fleet.urls})
    gateway.command("users", "create", ADMIN, "--role", "admin", "--password-stdin", input=f"{PASSWORD}\n")
    cookie = signed_in(gateway)
    for _ in range(1000):  # nothing counts before the first sample of the metrics
        gateway.get("/web/x")
        page = gateway.get(CONSOLE, cookie).body.decode()
        if "<small>0 in 15 min</small>" not in page.split("Refused")[0]:
            break
    assert "<small>1 in 15 min</small>" in page


def test_it_shows_the_policy_and_why(gateway: Gateway) -> None:
    cookie = signed_in(gateway)
    policy = gateway.get(f"{CONSOLE}?view=matrix", cookie).body.decode()
    assert "/users/{id}/**" in policy
    assert '<td class="m-part">◐ own</td>' in policy
    assert "<script>" not in policy and "<img" not in policy
    compared = gateway.get(f"{CONSOLE}?view=matrix&compare=1", cookie).body.decode()
    assert "Nothing about access, routes or upstreams" in compared
    route = gateway.get(f"{CONSOLE}?view=route&name=users", cookie).body.decode()
    assert "role editor, or the user {id}" in route
    assert "There is no file" in route and "gateway test" in route

    def explained(**asked: str) -> str:
        return gateway.get(f"{CONSOLE}?{urlencode({'view': 'explain', **asked})}", cookie).body.decode()

    refused, allowed = '<span class="tag bad">✕ refused</span>', '<span class="tag good">✓ allowed</span>'
    assert f"{refused} 401 <code>token_missing</code>" in explained(url="/users/1/x", caller="anonymous")
    assert f"{refused} 403 <code>forbidden</code>" in explained(url="/users/1/x")
    assert allowed in explained(url="/users/1/x", roles="admin")
    assert allowed in explained(url="/users/1/x", id="1")
    assert f"{refused} 400 <code>bad_path</code>" in explained(url="/users/../x")
    assert 'role="alert"' in explained(url="nonsense")
    nasty = explained(url='/"><script>alert(3)</script>', method='"><script>', roles="<script>", id="<script>")
    assert "<script>" not in nasty


def test_with_a_port_for_operations_it_stands_there(start: Start, fleet: Fleet) -> None:
    gateway = start({"web": fleet.urls}, server={"operations_port": free_port()})
    assert gateway.get(CONSOLE).refused() == (404, "no_route")
    assert gateway.operations is not None
    assert b'type="password"' in ask(gateway.operations, request(CONSOLE)).body
