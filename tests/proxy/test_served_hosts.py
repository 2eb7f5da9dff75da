"""`server.hosts`: the served hosts, with both servers, and the response to any other Host."""

import pytest

from gateway.wire.hosts import ServedHosts
from tests.support.gateways import Gateways
from tests.support.processes import FACES, Face, Gateway
from tests.support.recording import RecordingUpstream
from tests.support.websockets import KEY
from tests.support.wording import request

HOSTS = ["api.example.com", "*.shop.example.com", "[2001:db8::1]"]
SERVED = ["api.example.com", "API.Example.COM", "api.example.com:8443", "api.example.com.", "a.shop.example.com"]
SERVED += ["a.b.shop.example.com:81", "[2001:DB8:0::1]:80"]
OTHERS = ["example.com", "shop.example.com", "evilshop.example.com", "x.api.example.com", "api.example.com.evil.test"]
OTHERS += ["127.0.0.1:8000", "[::1]", "localhost"]
MISDIRECTED = (421, "misdirected")


@pytest.fixture(params=FACES)
def gateway(gateways: Gateways, request: pytest.FixtureRequest) -> Gateway:
    face: Face = request.param
    trusted = {"hosts": HOSTS, "trusted_proxies": ["127.0.0.1/32"]}
    named = {"path": "/only-here", "auth": "none", "upstream": "web", "host": "api.example.com"}
    return gateways.gateway("hosts", face, server=trusted, routes=[named])


@pytest.mark.parametrize("host", SERVED)
def test_a_host_that_is_listed_is_served(gateway: Gateway, upstream: RecordingUpstream, host: str) -> None:
    answer = gateway.ask(request("/public/x", host=host))
    named = host.lower().startswith("api.")  # a route names this host, so requests for it match only that host's routes
    assert answer.code == ("no_route" if named else None)
    assert gateway.ask(request("/only-here", host=host)).code == (None if named else "no_route")


@pytest.mark.parametrize("host", OTHERS)
@pytest.mark.parametrize("target", ["/public/x", "/only-here", "/nowhere", "/auth/login", "/_gateway/docs", "/api/x"])
def test_any_other_host_is_misdirected(gateway: Gateway, upstream: RecordingUpstream, host: str, target: str) -> None:
    assert gateway.ask(request(target, host=host)).refused() == MISDIRECTED
    assert gateway.ask(request(target, host=host, method="POST", body=b"x")).refused() == MISDIRECTED
    assert upstream.lines() == []


@pytest.mark.parametrize(
    "target", ["/_gateway/health", "/_gateway/ready", "/_gateway/metrics", "/.well-known/jwks.json"]
)
def test_endpoints_for_machines_are_served_at_any_host(gateway: Gateway, target: str) -> None:
    for host in ("10.1.2.3:8000", "gateway", "api.example.com"):
        assert gateway.ask(request(target, host=host)).status == 200


def test_a_proxy_in_front_asks_at_any_host_about_those_that_are_served(gateway: Gateway) -> None:
    def verified(host: str) -> tuple[int, str | None]:
        about = ["X-Forwarded-Method: GET", "X-Forwarded-Uri: /public/x", f"X-Forwarded-Host: {host}"]
        answer = gateway.ask(request("/_gateway/verify", fields=about, host="10.1.2.3:8000"))
        return answer.status, answer.code

    assert verified("a.shop.example.com") == (200, None)
    assert verified("b.example") == MISDIRECTED


def test_a_websocket_handshake_for_another_host_is_misdirected(gateway: Gateway, upstream: RecordingUpstream) -> None:
    upgrade = ["Connection: Upgrade", "Upgrade: websocket", f"Sec-WebSocket-Key: {KEY}", "Sec-WebSocket-Version: 13"]
    assert gateway.ask(request("/socket/x", fields=upgrade, host="b.example")).status in (421, 403)
    assert upstream.lines() == []


def test_an_http_1_0_request_without_a_host_is_served(gateway: Gateway, upstream: RecordingUpstream) -> None:
    assert gateway.ask(request("/public/x", host=None, version="1.0")).status == 200


def test_a_malformed_host_is_no_host_at_all(gateway: Gateway) -> None:
    assert gateway.ask(request("/public/x", host="a/b")).refused() == (400, "bad_host")


@pytest.mark.parametrize(
    ("hosts", "entry", "covered"),
    [
        (["a.example"], "A.example", True),
        (["a.example"], "*.a.example", False),
        (["*.example"], "a.example", True),
        (["*.example"], "*.a.example", True),
        (["*.example"], "*.example", True),
        (["*.a.example"], "*.example", False),
        (["*.a.example"], "*.ba.example", False),
    ],
)
def test_an_entry_is_covered_by_those_that_hold_all_of_its_hosts(hosts: list[str], entry: str, covered: bool) -> None:
    assert ServedHosts(hosts).covers(entry) is covered
