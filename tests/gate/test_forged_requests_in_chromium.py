"""Requests that pages cause in a real browser: pages of another site, of a sibling subdomain, of a listed origin, and
of the application. The gateway speaks TLS, so the cookie has its prefix, and the browser sends Fetch Metadata. A whole
run has the ASGI face too."""

import json
import ssl
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

import pytest

from tests.support.certificates import Issuer, Pair
from tests.support.chromium import Browser, browsing
from tests.support.gateways import unhandled
from tests.support.processes import PASSWORD, Face, Gateway, free_port
from tests.support.raw import Caller
from tests.support.recording import Exchange, RecordingUpstream
from tests.support.scale import WHOLE
from tests.support.scripts import answer, response
from tests.support.small import small
from tests.support.waiting import eventually
from tests.support.websockets import echoing
from tests.support.wording import request

APP, LISTED, SIBLING, EVIL = "app.gateway.test", "admin.gateway.test", "evil.gateway.test", "evil.example"
OPTIONS: Final = ("--host-resolver-rules=MAP * 127.0.0.1", "--ignore-certificate-errors")
PAGE: Final = b"<!doctype html><title>page</title><body></body>"


class OverTls(Gateway):
    """A gateway with TLS on its listener: its own, or that of uvicorn."""

    pair: Pair

    @property
    def arguments(self) -> list[str]:
        if self.face == "serve":
            return super().arguments
        return [*super().arguments, f"--ssl-certfile={self.pair.certificate}", f"--ssl-keyfile={self.pair.key}"]

    def _answers(self) -> bool:
        assert self.running, self.log()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        try:
            with Caller(self.address, tls=context) as caller:
                return caller.send(request("/_gateway/ready")).receive().status == 200
        except (OSError, AssertionError):
            return False


async def page(exchange: Exchange) -> None:
    """A blank page. `/to?ADDRESS` is a redirect that keeps the method."""
    await exchange.body()
    _, found, to = exchange.request.target.partition(b"/to?")
    fields = ["Content-Type: text/html", "Referrer-Policy: origin"]
    await exchange.send(response(307, [b"Location: " + to]) if found else response(200, fields, PAGE))


class Environment(NamedTuple):
    """The gateway with its application, a server for the pages of other hosts, and a browser that is signed in."""

    gateway: Gateway
    upstream: RecordingUpstream
    elsewhere: RecordingUpstream
    browser: Browser

    def at(self, host: str) -> str:
        """The origin of this host."""
        return f"https://{host}:{self.gateway.port if host == APP else self.elsewhere.address[1]}"

    def cause(self, host: str, scripts: Mapping[str, str]) -> dict[str, tuple[int, str]]:
        """Open a page of this host, and run the script of each path on it. Returns status and code by path, as soon as
        the access log has a line for each path."""
        self.browser.go(f"{self.at(host)}/page")
        self.upstream.requests = []
        before = len(self.gateway.log())
        calls = [f"(async url => {{ {script} }})('{self.at(APP)}{path}');" for path, script in scripts.items()]
        self.browser.run(f"{{ {HELPERS} {''.join(calls)} 0 }}")
        return self._outcomes(set(scripts), before)

    def _outcomes(self, paths: set[str], before: int) -> dict[str, tuple[int, str]]:
        found: dict[str, tuple[int, str]] = {}

        def is_complete() -> bool:
            lines = self.gateway.log()[before:].splitlines(keepends=True)
            entries = [json.loads(line) for line in lines if line.startswith("{") and line.endswith("\n")]
            for entry in entries:
                if entry.get("method") != "OPTIONS" and "path" in entry:
                    found[entry["path"]] = entry["status"], entry.get("code", "")
            return paths <= found.keys()

        eventually(is_complete, timeout=20, every=0.05)
        return {path: found[path] for path in paths}


@pytest.fixture(scope="module", params=["serve", "asgi"] if WHOLE else ["serve"])
def environment(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Environment]:
    face: Face = request.param
    folder = tmp_path_factory.mktemp("forged")
    pair = Issuer(folder).issue(APP, LISTED, SIBLING, EVIL)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*map(str, pair))
    upstream, elsewhere = RecordingUpstream(default=page), RecordingUpstream(context, default=page)
    upstream.on(f"/sockets/{APP}/a-socket", echoing())
    upstream.on(f"/sockets/{LISTED}/a-socket", echoing())
    port = free_port()
    tls = {"tls": pair.settings} if face == "serve" else {}
    routes: list[dict[str, object]] = [
        {"path": "/page", "auth": "none", "upstream": "app"},
        {"path": "/to", "auth": "none", "upstream": "app"},
        {"path": "/plain/**", "upstream": "app"},
        {"path": "/strict/**", "same_origin": True, "upstream": "app"},
        {"path": "/optional/**", "auth": "optional", "upstream": "app"},
        {"path": "/sockets/**", "websocket": True, "upstream": "app"},
    ]
    configuration = small(
        folder,
        {"app": upstream.url},
        routes=routes,
        server={"public_url": f"https://{APP}:{port}", **tls},
        sessions={"origins": [f"https://{LISTED}:{elsewhere.address[1]}"]},
        accounts={"pages": {}},
        observability={"access_log": "json"},
    )
    gateway = OverTls(face, configuration, folder)
    gateway.pair, gateway.port = pair, port
    gateway.start()
    with browsing(folder / "chromium", *OPTIONS) as browser:
        running = Environment(gateway, upstream, elsewhere, browser)
        browser.go(f"{running.at(APP)}/page")
        body = json.dumps({"email": "ada@example.com", "password": PASSWORD, "session": "cookie"})
        header = "{'content-type': 'application/json'}"
        script = f"fetch('/auth/register', {{method: 'POST', headers: {header}, body: {body!r}}}).then(r => r.status)"
        assert browser.run(script, wait=True) == 201
        yield running
        browser.go("about:blank")
    gateway.stop()
    upstream.stop()
    elsewhere.stop()
    assert unhandled(gateway) == []


# Each script causes one request for `url`. `form` posts a form into a frame of its own.
HELPERS: Final = """
const frame = (attributes = {}) => {
    const one = document.createElement('iframe');
    for (const [name, value] of Object.entries(attributes)) one.setAttribute(name, value);
    document.body.append(one);
    return one;
};
const element = (name, attributes) => {
    const one = document.createElement(name);
    Object.assign(one, attributes);
    document.body.append(one);
    return one;
};
const form = (url, enctype = '') => {
    const one = element('form', {method: 'POST', action: url, target: 'f' + Math.random()});
    if (enctype) one.enctype = enctype;
    element('input', {name: 'a', value: '1'}).setAttribute('form', one.id = one.target);
    frame({name: one.target});
    one.submit();
};
const html = url => `<form method="POST" action="${url}"><input name="a"></form>` +
    '<script>document.forms[0].submit()</script>';
"""
WRITES: Final = {
    "a form": "form(url)",
    "a form as text": "form(url, 'text/plain')",
    "a form with files": "form(url, 'multipart/form-data')",
    "a form without referrer": "frame({srcdoc: '<meta name=referrer content=no-referrer>' + html(url)})",
    "a form in a document of its own": "frame({srcdoc: html(url)})",
    "a form in a sandbox": "frame({sandbox: 'allow-scripts allow-forms', srcdoc: html(url)})",
    "a form in a sandbox with its origin": "frame({sandbox: 'allow-scripts allow-forms allow-same-origin',"
    " srcdoc: html(url)})",
    "a form in a blob": "frame({src: URL.createObjectURL(new Blob([html(url)], {type: 'text/html'}))})",
    "a form in a data address": "frame({src: 'data:text/html,' + encodeURIComponent(html(url))})",
    "a redirected form": "form('/to?' + url)",
    "a fetch without CORS": "fetch(url, {method: 'POST', mode: 'no-cors', credentials: 'include', body: 'a'})",
    "a fetch with CORS": "fetch(url, {method: 'POST', credentials: 'include', body: 'a'}).catch(() => 0)",
    "a redirected fetch": "fetch('/to?' + url, {method: 'POST', mode: 'no-cors', credentials: 'include', body: 'a'})",
    "an XHR": "(x => { x.open('POST', url); x.withCredentials = true; x.send('a'); })(new XMLHttpRequest())",
    "a beacon": "navigator.sendBeacon(url, 'a')",
    "a ping": "(a => { a.ping = url; a.href = '#x'; a.click(); })(element('a', {}))",
}
READS: Final = {
    "an image": "element('img', {src: url})",
    "a script": "element('script', {src: url})",
    "a style": "element('link', {rel: 'stylesheet', href: url})",
    "a prefetch": "element('link', {rel: 'prefetch', href: url})",
    "a frame": "frame({src: url})",
    "a sandboxed frame": "frame({src: url, sandbox: ''})",
    "a fetch": "fetch(url, {mode: 'no-cors', credentials: 'include'})",
    "a redirected image": "element('img', {src: '/to?' + url})",
    "an object": "element('object', {data: url})",
    "a video": "element('video', {src: url})",
    "an event source": "new EventSource(url, {withCredentials: true})",
}


def cause(environment: Environment, host: str, route: str, scripts: Mapping[str, str]) -> dict[str, tuple[int, str]]:
    """Run all scripts on one page of this host, each for its own path. Returns status and code by script."""
    paths = {name: f"/{route}/{host}/{name.replace(' ', '-')}" for name in scripts}
    outcomes = environment.cause(host, {paths[name]: script for name, script in scripts.items()})
    return {name: outcomes[path] for name, path in paths.items()}


REFUSED: Final = {(403, "cross_site"), (401, "token_missing")}  # Without the cookie the credential is missing.
OPAQUE: Final = {"a form in a sandbox", "a form in a data address"}  # Their documents have no origin.
# A listed page proves itself by its Origin, which `no-referrer` and redirects to another origin hide.
HIDDEN: Final = {"a form without referrer", "a redirected form", "a redirected fetch"}
SOCKET: Final = "const one = new WebSocket(url.replace('https', 'wss')); one.onopen = () => one.close()"


@pytest.mark.parametrize("host", [EVIL, SIBLING])
def test_no_page_of_others_writes_with_the_session(environment: Environment, host: str) -> None:
    outcomes = cause(environment, host, "plain", WRITES) | cause(environment, host, "sockets", {"a socket": SOCKET})
    assert set(outcomes.values()) <= REFUSED
    assert environment.upstream.requests == []
    if host == SIBLING:  # The browser sends the cookie, except from documents without an origin.
        kept = {name for name, outcome in outcomes.items() if outcome == (403, "cross_site")}
        assert outcomes.keys() - kept == OPAQUE


@pytest.mark.parametrize("host", [EVIL, SIBLING])
def test_no_page_of_others_reads_where_the_route_asks_for_own_pages(environment: Environment, host: str) -> None:
    outcomes = cause(environment, host, "strict", READS)
    assert set(outcomes.values()) <= REFUSED
    assert environment.upstream.requests == []


@pytest.mark.parametrize("host", [EVIL, SIBLING])
def test_on_an_optional_route_requests_of_others_are_anonymous(environment: Environment, host: str) -> None:
    outcomes = cause(environment, host, "optional", WRITES)
    assert set(outcomes.values()) == {(200, "")}
    assert [received.line for received in environment.upstream.requests if received.values("x-user-id")] == []


@pytest.mark.parametrize("host", [EVIL, SIBLING])
def test_no_page_of_others_signs_in_or_out(environment: Environment, host: str) -> None:
    for path in ("/auth/session", "/account/sign-in", "/account/sign-out"):
        assert environment.cause(host, {path: "form(url, 'text/plain')"}) == {path: (403, "cross_site")}
    assert signed_in(environment, APP) == "true"


def test_links_of_others_open_pages_except_where_the_route_asks_for_own_pages(environment: Environment) -> None:
    for path, outcome in (("/plain/link", (200, "")), ("/strict/link", (403, "cross_site"))):
        assert environment.cause(EVIL, {path: "location.href = url"}) == {path: outcome}


def test_pages_of_the_application_and_of_listed_origins_write_and_read(environment: Environment) -> None:
    for host in (APP, LISTED):
        socket = cause(environment, host, "sockets", {"a socket": SOCKET})
        outcomes = cause(environment, host, "plain", WRITES) | {"a socket": (101, "")} | socket
        refused = {name for name, outcome in outcomes.items() if outcome not in ((200, ""), (101, ""))}
        assert refused == OPAQUE | (set() if host == APP else HIDDEN), host
    outcomes = cause(environment, APP, "strict", READS)
    assert set(outcomes.values()) == {(200, "")}


def test_listed_pages_can_read_the_session_and_siblings_cannot(environment: Environment) -> None:
    assert [signed_in(environment, host) for host in (APP, LISTED, SIBLING, EVIL)] == [
        "true",
        "true",
        "hidden",
        "hidden",
    ]


def test_no_application_plants_or_ends_the_session(environment: Environment) -> None:
    name = "__Host-Http-session"
    fields = [f"Set-Cookie: {name}={value}; Path=/; Secure; HttpOnly" for value in ("planted", "; Max-Age=0")]
    fields += ['Clear-Site-Data: "*"', 'Clear-Site-Data: "cookies"', "Content-Type: text/html"]
    environment.upstream.on("/plain/clearing", answer(200, fields, PAGE))
    before = [cookie["value"] for cookie in environment.browser.cookies() if cookie["name"] == name]
    environment.browser.go(f"{environment.at(APP)}/plain/clearing")
    assert [cookie["value"] for cookie in environment.browser.cookies() if cookie["name"] == name] == before
    assert signed_in(environment, APP) == "true"


def signed_in(environment: Environment, host: str) -> str:
    """The answer of GET /auth/session to a page of this host, "hidden" where the browser keeps it from the page."""
    environment.browser.go(f"{environment.at(host)}/page")
    url = f"{environment.at(APP)}/auth/session"
    answered = f"fetch('{url}', {{credentials: 'include'}}).then(r => r.json()).then(s => String(s.signed_in))"
    before = len(environment.gateway.log())
    answer = str(environment.browser.run(f"{answered}.catch(() => 'hidden')", wait=True))
    # The line of this request can follow its answer, and must not count as one of the next test.
    eventually(lambda: '"/auth/session"' in environment.gateway.log()[before:], timeout=20)
    return answer
