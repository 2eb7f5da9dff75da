"""nginx, Caddy and HAProxy with the snippets of the documentation, and Envoy with the export.

They decide like the gateway. Each request goes to the gateway and to the front proxy. If the gateway allows it, the
upstream must receive the same request from both, except for Authorization, which the snippets always remove. If the
gateway refuses, the front proxy must refuse with the same status.
"""

from collections.abc import Iterator
from functools import cache
from typing import Final, Literal
from urllib.parse import unquote_to_bytes

import pytest

from tests.advisories.test_forwarded_trust import HEARSAY
from tests.advisories.test_identity_headers import FORGED, NAMES
from tests.advisories.test_paths import ALWAYS, STRICT
from tests.gate.forward_auth.snippets import FrontProxy, binary_of, program
from tests.support.gateways import Gateways, signed_in
from tests.support.processes import PASSWORD, Account, Gateway
from tests.support.raw import Address, Answer, Caller, NoAnswer
from tests.support.recording import Exchange, Received, RecordingUpstream
from tests.support.websockets import Socket, echoing, handshake, text
from tests.support.wording import request

STRANGER: Final = "127.0.0.9"
MANY_ROLES: Final = [f"{number:02}-{'r' * 97}" for number in range(40)]
Name = Literal["nginx", "caddy", "haproxy", "envoy", "envoy by hand"]
FRONTS: Final[tuple[Name, ...]] = ("nginx", "caddy", "haproxy", "envoy", "envoy by hand")


@pytest.fixture(scope="module")
def gateway(gateways: Gateways) -> Gateway:
    """A gateway that trusts only the front proxy."""
    roles: dict[str, object] = {role: [] for role in MANY_ROLES}
    return gateways.gateway("behind-fronts", "serve", server={"trusted_proxies": ["127.0.0.1/32"]}, roles=roles)


@pytest.fixture(scope="module")
def relaxed(gateways: Gateways) -> Gateway:
    """The same with `paths: relaxed`."""
    return gateways.gateway("behind-relaxed", "serve", server={"trusted_proxies": ["127.0.0.1/32"], "paths": "relaxed"})


@pytest.fixture(scope="module", params=FRONTS)
def front(
    request: pytest.FixtureRequest, gateway: Gateway, gateways: Gateways, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[FrontProxy]:
    proxy = started(request.param, gateway, gateways, tmp_path_factory)
    yield proxy
    proxy.stop()


@pytest.fixture(scope="module", params=FRONTS)
def relaxed_front(
    request: pytest.FixtureRequest, relaxed: Gateway, gateways: Gateways, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[FrontProxy]:
    proxy = started(request.param, relaxed, gateways, tmp_path_factory)
    yield proxy
    proxy.stop()


def started(name: Name, gateway: Gateway, gateways: Gateways, folders: pytest.TempPathFactory) -> FrontProxy:
    if program(binary_of(name)) is None:
        pytest.skip(f"{name} is not installed")
    return FrontProxy(name, folders.mktemp(binary_of(name)), gateway, gateways.upstreams.web.address)


def ask(address: Address, data: bytes) -> Answer | None:
    """The response; None if the connection was closed instead."""
    with Caller(address, source=STRANGER) as caller:
        try:
            return caller.send(data).receive(data.partition(b" ")[0].decode("latin-1"))
        except NoAnswer:
            return None


def seen(received: Received) -> tuple[object, ...]:
    """The request from the upstream's view: its target, and identity fields in any spelling."""
    folded = [[value for value in received.seen_as(name) if value] for name in NAMES]
    return received.method, unquote_to_bytes(received.target.replace(b"%2F", b"%252F")), *folded


@cache
def asked_directly(gateway: Gateway, upstream: RecordingUpstream, data: bytes) -> tuple[Answer | None, list[Received]]:
    """The response of the gateway, and the requests at the upstream. All front proxies are compared with the same."""
    upstream.requests.clear()
    return ask(gateway.address, data), list(upstream.requests)


def difference(front: FrontProxy, gateway: Gateway, upstream: RecordingUpstream, data: bytes) -> str | None:
    """The difference between the two for a request; None without any."""
    ours, direct = asked_directly(gateway, upstream, data)
    upstream.requests.clear()
    its, passed = ask(front.address, data), list(upstream.requests)
    assert ours is not None
    if [seen(each) for each in passed] != [seen(each) for each in direct]:
        return f"the upstream received {passed and seen(passed[0])} instead of {direct and seen(direct[0])}"
    if [each.target for each in passed] != [each.target for each in direct]:
        return f"the upstream received {passed[0].target!r} instead of {direct[0].target!r}"
    credentials = [each.seen_as("authorization") for each in passed]
    if credentials != (
        [each.seen_as("authorization") for each in direct] if front.name == "envoy" else [[]] * len(passed)
    ):
        return "the upstream received a credential that was not for it"
    if its is None or its.status != ours.status:
        return f"answered {its and its.status} instead of {ours.status}"
    return None


def requests(user: Account, admin: Account) -> Iterator[bytes]:
    """About two hundred requests: path tricks, forged headers, and all combinations of routes and credentials."""
    for target in (*ALWAYS.values(), *STRICT.values()):
        yield request(target, fields=[admin.line])
    paths = ["/public/x", "/api/x", "/admin/x", "/optional/x", "/nowhere", "/editors/x", "/%61dmin/x",
             "/api/%C3%A9/a%20b",
             "/stripped/a/b?c=d", "/rewritten/7/x?y=1", "/kept/a%2Fb/x", "/public/?a=%zz&b=//../",
              "/api/a!$&'()*+,=:@~x",
             "/public/%41", f"/users/{user.id}/x", "/mine/other", "/literal/v1x2", "/auth/me", "/auth/nothing",
             "/_gateway/health"]  # fmt: skip
    for path in paths:
        for credential in ([], [user.line], [admin.line], ["Authorization: Bearer a.b.c"]):
            yield request(path, fields=credential)
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"):
        yield request("/methods/x", method=method, fields=[user.line], body=b"")
        yield request("/api/x", method=method, fields=[user.line], body=b"body")
    yield request("/api/x", method="HEAD", fields=[user.line])
    for host in ("admin.example.com", "ADMIN.example.com:80", "admin.example.com.", "inside.example.com"):
        yield request("/inside/x", host=host)
        yield request("/inside/x", host=host, fields=[admin.line])
    misleading = ["X-Original-URI: /public/x", "X-Forwarded-Uri: /public/x", "X-Original-Method: GET",
                  "X-Forwarded-Method: OPTIONS", "X-Forwarded-Host: inside.example.com", "X-Forwarded-For: 127.0.0.1",
                  "X-Gateway-Path: /public/x", "X-Original-URL: /public/x", "X-Rewrite-URL: /public/x",
                  "X-HTTP-Method-Override: GET", "X_Forwarded!Uri: /public/x", "X.Original|URI: /public/x",
                  "Connection: X-User-Id, X-User-Roles"]  # fmt: skip
    for line in [*misleading, *FORGED]:
        yield request("/admin/x", fields=[line])
        yield request("/api/x", fields=[user.line, line])
        yield request("/optional/x", fields=[line])


def test_the_proxy_in_front_decides_as_the_gateway_does(
    front: FrontProxy, gateway: Gateway, upstream: RecordingUpstream
) -> None:
    user, admin = (signed_in(gateway, f"{name}@example.com") for name in ("user", "admin"))
    asked = list(requests(user, admin))
    assert len(asked) > 150
    found = {data: found for data in asked if (found := difference(front, gateway, upstream, data)) is not None}
    assert not found, "\n".join(f"{data[:300]!r}: {text}" for data, text in found.items())


# Clients must not set these: they describe the client itself, the request before other proxies, the method or the path,
# or affect CGI programs.
NOT_FOR_CALLERS: Final = [
    *(line.partition(":")[0] for line in HEARSAY), "X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override",
    "X-Forwarded-By", "X-Forwarded-Groups", "X-Forwarded-Access-Token", "X-Original-Proto", "X-Original-Forwarded-For",
    "Proxy", "Script-Name", "Path-Info", "X-Script-Name", "Daphne-Root-Path",
]  # fmt: skip
UNLISTED: Final = "X-Forwarded-Anything-Else"


def forged_fields(front: FrontProxy) -> list[str]:
    """Every name as written, and with each character that folds to a hyphen. nginx has no wildcards."""
    names = [name for name in NOT_FOR_CALLERS if front.name != "nginx" or name != UNLISTED]
    spelled = [name.replace("-", joint) for name in names for joint in "-_.!#$%&'*+^`|~"]
    return [f"{name}: f0rged" for name in spelled]


@pytest.mark.parametrize("path", ["/public/x", "/optional/x", "/api/x", "/stripped/x", "/kept/a%2Fb/x"])
def test_an_untrusted_client_sets_no_header_of_the_upstream(
    front: FrontProxy, gateway: Gateway, upstream: RecordingUpstream, path: str
) -> None:
    line = signed_in(gateway, "user@example.com").line
    for fields in packed(forged_fields(front)):
        upstream.requests.clear()
        answer = ask(front.address, request(path, fields=[*fields, line]))
        assert answer is not None
        assert answer.status == 200
        assert b"f0rged" not in upstream.only.head


def test_nor_over_a_websocket(front: FrontProxy, gateway: Gateway, upstream: RecordingUpstream) -> None:
    line = signed_in(gateway, "user@example.com").line
    upstream.on("/sockets/x", echoing())
    for fields in packed(forged_fields(front)):
        upstream.requests.clear()
        with Socket(front.address, "/sockets/x", line, *fields):
            assert b"f0rged" not in upstream.only.head


def packed(fields: list[str]) -> Iterator[list[str]]:
    """Batches of the size that every proxy accepts: HAProxy accepts 101 fields in all."""
    for start in range(0, len(fields), 80):
        yield fields[start : start + 80]


VERIFY_SPELLINGS: Final = ["/_gateway/verify", "/_gateway/verify/", "/_gateway/%76erify/", "/_gateway//verify",
                           "//_gateway/verify", "/_gateway//verify//", "/%5Fgateway/verify", "/_gateway/verify;x",
                           "/_GATEWAY/verify", "/auth/..//_gateway/verify", "/_gateway/verify?x"]  # fmt: skip


def no_verdict(front: FrontProxy, gateway: Gateway, path: str) -> None:
    line = signed_in(gateway, "user@example.com").line
    asked = ["X-Forwarded-Uri: /api/x", "X-Original-URI: /api/x", "X_Original_URI: /api/x", "X-Forwarded-Method: GET"]
    for fields in ([asked[0]], [asked[1]], asked):
        for upgrade in ([], ["Connection: Upgrade", "Upgrade: websocket"]):
            answer = ask(front.address, request(path, fields=[*fields, *upgrade, line]))
            if answer is not None:
                assert answer.status in (400, 403, 404), (path, fields, upgrade)
                assert not answer.head.has("x-gateway-route")
                assert not answer.head.has("x-user-id")


@pytest.mark.parametrize("path", VERIFY_SPELLINGS)
def test_a_stranger_cannot_ask_through_it(front: FrontProxy, gateway: Gateway, path: str) -> None:
    """The gateway ignores a trailing slash on its paths, so the proxy must block that spelling too."""
    no_verdict(front, gateway, path)


@pytest.mark.parametrize("path", VERIFY_SPELLINGS)
def test_nor_where_paths_are_relaxed(relaxed_front: FrontProxy, relaxed: Gateway, path: str) -> None:
    no_verdict(relaxed_front, relaxed, path)


def test_it_decides_as_the_gateway_does_where_paths_are_relaxed(
    relaxed_front: FrontProxy, relaxed: Gateway, upstream: RecordingUpstream
) -> None:
    admin = signed_in(relaxed, "admin@example.com")
    paths = [*ALWAYS.values(), *STRICT.values(), "//public/a", "/public//a", "/public/a;b", "/public/a%3bb",
             "/public/a%23b", "/public/a%3Fb", "/public/a%2541", "/public/a%252Fb", "/kept/a%3Bb/x", "/kept//a%2Fb/x",
             "/stripped//a%3Bb", "/admin;a=b/x", "//admin/x"]  # fmt: skip
    asked = [request(path, fields=fields) for path in paths for fields in ([], [admin.line])]
    compared = {data: difference(relaxed_front, relaxed, upstream, data) for data in asked}
    found = {data: text for data, text in compared.items() if text is not None}
    assert not found, "\n".join(f"{data[:300]!r}: {text}" for data, text in found.items())


@pytest.fixture(scope="module")
def many_roles(gateway: Gateway) -> Account:
    """Forty roles of a hundred characters."""
    roles = [word for role in MANY_ROLES for word in ("--role", role)]
    gateway.command("users", "create", "roles@example.com", *roles, "--password-stdin", input=PASSWORD + "\n")
    return gateway.login("roles@example.com")


@pytest.mark.parametrize("length", [10, 5_000, 7_000])
def test_large_identities_and_long_paths_pass(
    front: FrontProxy, gateway: Gateway, upstream: RecordingUpstream, many_roles: Account, length: int
) -> None:
    for path in (f"/api/{'p' * length}", f"/api/x?q={'q' * length}"):
        assert difference(front, gateway, upstream, request(path, fields=[many_roles.line])) is None
        assert len(upstream.only.values("x-user-roles")[0]) > 4_000
        assert upstream.only.target == path.encode()


def test_a_refusal_carries_its_reason(front: FrontProxy) -> None:
    """The challenge, the methods and the retry time reach the client; the response is not cacheable."""
    missing = ask(front.address, request("/api/x"))
    other = ask(front.address, request("/methods/x", method="PATCH"))
    assert missing is not None and other is not None
    assert missing.values("www-authenticate") == [b"Bearer"]
    assert missing.values("cache-control") == [b"no-store"]
    assert sorted(other.values("allow")[0].split(b", ")) == [b"GET", b"HEAD", b"POST", b"PUT"]


def test_a_websocket_goes_through_the_gateway(front: FrontProxy, gateway: Gateway, upstream: RecordingUpstream) -> None:
    """The gateway refuses, relays and ends it, independent of the front proxy."""
    newcomer = gateway.newcomer()
    refused = ask(front.address, handshake("/api/x", newcomer.line))
    assert refused is not None
    assert refused.refused() == (403, "websocket_not_allowed")
    upstream.on("/sockets/x", echoing())
    with Socket(front.address, "/sockets/x", newcomer.line) as socket:
        socket.say(text("hello"))
        assert socket.message() == b"hello"
        assert gateway.ask(request("/auth/logout", method="POST", fields=[newcomer.line], body=b"")).status == 204
        assert socket.closed(within=5)[0] == 1008


def test_a_body_reaches_the_upstream(front: FrontProxy, gateway: Gateway, upstream: RecordingUpstream) -> None:
    line = signed_in(gateway, "user@example.com").line
    answer = ask(front.address, request("/api/x", method="POST", fields=[line], body=b"a body"))
    assert answer is not None
    assert answer.status == 200
    assert bytes(upstream.only.body) == b"a body"


def test_a_preflight_is_answered_and_not_sent_on(
    front: FrontProxy, gateway: Gateway, upstream: RecordingUpstream
) -> None:
    if front.name == "nginx":
        pytest.skip("auth_request takes every 2xx for yes: preflights are to be answered by nginx itself")
    asks = ["Origin: https://app.example.com", "Access-Control-Request-Method: GET"]
    answer = ask(front.address, request("/sockets-of-pages/x", method="OPTIONS", fields=asks))
    assert answer is not None
    assert answer.status == 204
    assert answer.value("access-control-allow-origin") == b"https://app.example.com"
    assert upstream.requests == []


async def speaking_of_cors(exchange: Exchange) -> None:
    await exchange.body()
    await exchange.send(b"HTTP/1.1 200 OK\r\nAccess-Control-Allow-Origin: *\r\nContent-Length: 0\r\n\r\n")


def test_envoy_lets_pages_read_the_responses_that_the_gateway_lets_them_read(
    front: FrontProxy, gateway: Gateway, upstream: RecordingUpstream
) -> None:
    if front.name != "envoy":
        pytest.skip("the snippets add nothing to the upstream's answer")
    upstream.on("/sockets-of-pages/x", speaking_of_cors)
    for origin, allowed in (("https://app.example.com", [b"https://app.example.com"]), ("https://evil.example", [])):
        answer = ask(front.address, request("/sockets-of-pages/x", fields=[f"Origin: {origin}"]))
        assert answer is not None
        assert answer.status == 200
        assert answer.values("access-control-allow-origin") == allowed
