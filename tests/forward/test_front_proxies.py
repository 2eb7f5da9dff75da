"""nginx, Caddy and HAProxy in front, with the snippets of the documentation, and Envoy with the export.

They decide as the gateway does. Each request goes to the gateway and to the proxy in front. Where the gateway lets it
pass, the upstream must receive the same from both, but for Authorization, which the snippets always take out, and for
what Caddy escapes though it need not. Where the gateway refuses, the proxy in front must refuse with the same status.
"""

from collections.abc import Iterator
from typing import Final, Literal
from urllib.parse import unquote_to_bytes

import pytest

from tests.advisories.test_identity_headers import FORGED, NAMES
from tests.advisories.test_paths import ALWAYS, STRICT
from tests.forward.snippets import FrontProxy, program
from tests.support.gateways import Town
from tests.support.processes import Account, Gateway
from tests.support.raw import Address, Answer, Caller, NoAnswer
from tests.support.recording import Exchange, Received, RecordingUpstream
from tests.support.websockets import Socket, echoing, handshake, text
from tests.support.wording import request

STRANGER: Final = "127.0.0.9"
Name = Literal["nginx", "caddy", "haproxy", "envoy"]


@pytest.fixture(scope="module")
def gateway(town: Town) -> Gateway:
    """A gateway that trusts the proxy in front and nobody else."""
    return town.gateway("behind", "serve", server={"trusted_proxies": ["127.0.0.1/32"]})


@pytest.fixture(scope="module", params=["nginx", "caddy", "haproxy", "envoy"])
def front(
    request: pytest.FixtureRequest, gateway: Gateway, town: Town, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[FrontProxy]:
    name: Name = request.param
    if program(name) is None:
        pytest.skip(f"{name} is not installed")
    proxy = FrontProxy(name, tmp_path_factory.mktemp(name), gateway, town.upstreams.web.address)
    yield proxy
    proxy.stop()


def ask(address: Address, data: bytes) -> Answer | None:
    """The answer; None where the connection was closed instead."""
    with Caller(address, source=STRANGER) as caller:
        try:
            return caller.send(data).receive(data.partition(b" ")[0].decode("latin-1"))
        except NoAnswer:
            return None


def seen(received: Received) -> tuple[object, ...]:
    """What an upstream makes of a request: the target, and who it is from in whatever spelling."""
    folded = [[value for value in received.seen_as(name) if value] for name in NAMES]
    return received.method, unquote_to_bytes(received.target.replace(b"%2F", b"%252F")), *folded


def difference(front: FrontProxy, gateway: Gateway, upstream: RecordingUpstream, data: bytes) -> str | None:
    """In what the two differ about a request; None where they do not."""
    upstream.requests.clear()
    ours, direct = ask(gateway.address, data), list(upstream.requests)
    upstream.requests.clear()
    its, passed = ask(front.address, data), list(upstream.requests)
    assert ours is not None
    if [seen(each) for each in passed] != [seen(each) for each in direct]:
        return f"the upstream received {passed and seen(passed[0])} instead of {direct and seen(direct[0])}"
    if front.name != "caddy" and [each.target for each in passed] != [each.target for each in direct]:
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
    """Some two hundred: path tricks, forged headers, every kind of route with every kind of credential."""
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
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
        yield request("/methods/x", method=method, fields=[user.line], body=b"")
        yield request("/api/x", method=method, fields=[user.line], body=b"body")
    yield request("/api/x", method="HEAD", fields=[user.line])
    for host in ("admin.example.com", "ADMIN.example.com:80", "admin.example.com.", "inside.example.com"):
        yield request("/inside/x", host=host)
        yield request("/inside/x", host=host, fields=[admin.line])
    misleading = ["X-Original-URI: /public/x", "X-Forwarded-Uri: /public/x", "X-Original-Method: GET",
                  "X-Forwarded-Method: OPTIONS", "X-Forwarded-Host: inside.example.com", "X-Forwarded-For: 127.0.0.1",
                  "X-Gateway-Path: /public/x", "X-Original-URL: /public/x", "X-Rewrite-URL: /public/x"]  # fmt: skip
    for line in [*misleading, *FORGED]:
        yield request("/admin/x", fields=[line])
        yield request("/api/x", fields=[user.line, line])
        yield request("/optional/x", fields=[line])


def test_the_proxy_in_front_decides_as_the_gateway_does(
    front: FrontProxy, gateway: Gateway, upstream: RecordingUpstream
) -> None:
    user, admin = (gateway.login(f"{name}@example.com") for name in ("user", "admin"))
    asked = list(requests(user, admin))
    assert len(asked) > 150
    found = {data: found for data in asked if (found := difference(front, gateway, upstream, data)) is not None}
    assert not found, "\n".join(f"{data[:300]!r}: {text}" for data, text in found.items())


@pytest.mark.parametrize("dialect", ["X-Forwarded-Uri", "X-Original-URI"])
@pytest.mark.parametrize("path", ["/_gateway/verify", "/_gateway/verify/", "/_gateway/%76erify/"])
def test_a_stranger_cannot_ask_through_it(front: FrontProxy, gateway: Gateway, path: str, dialect: str) -> None:
    """The gateway takes a slash at the end of its paths for nothing; so must whoever keeps this one from strangers."""
    line = gateway.login("user@example.com").line
    answer = ask(front.address, request(path, fields=[f"{dialect}: /api/x", line]))
    assert answer is not None
    assert answer.status in (403, 404)


def test_a_refusal_says_why(front: FrontProxy) -> None:
    """The challenge, the methods and the time to wait reach the caller; nothing keeps the answer."""
    missing = ask(front.address, request("/api/x"))
    other = ask(front.address, request("/methods/x", method="PATCH"))
    assert missing is not None and other is not None
    assert missing.values("www-authenticate") == [b"Bearer"]
    assert missing.values("cache-control") == [b"no-store"]
    assert sorted(other.values("allow")[0].split(b", ")) == [b"GET", b"HEAD", b"POST", b"PUT"]


def test_a_websocket_goes_through_the_gateway(front: FrontProxy, gateway: Gateway, upstream: RecordingUpstream) -> None:
    """It is refused, relayed, and ended as the gateway does all of that, whatever the proxy in front would do."""
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
    line = gateway.login("user@example.com").line
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


def test_envoy_lets_pages_read_what_the_gateway_lets_them_read(
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
