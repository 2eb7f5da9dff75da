"""The snippets and the export for Envoy with sessions: the cookie decides, and no upstream sees it."""

from collections.abc import Iterator

import pytest

from tests.gate.forward_auth.snippets import FrontProxy, binary_of, program
from tests.support.browsers import OWN_PAGE, SETTINGS, Browser
from tests.support.gateways import Gateways
from tests.support.processes import Gateway
from tests.support.recording import RecordingUpstream
from tests.support.wording import request


@pytest.fixture(scope="module")
def gateway(gateways: Gateways) -> Gateway:
    server = SETTINGS["server"] | {"trusted_proxies": ["127.0.0.1/32"]}
    accounts: dict[str, object] = {"pages": {}}
    return gateways.gateway("behind-fronts-cookies", "serve", server=server, sessions={}, accounts=accounts)


@pytest.fixture(scope="module")
def browser(gateway: Gateway) -> Browser:
    signed_in = Browser(gateway)
    signed_in.sign_in("user@example.com")
    return signed_in


@pytest.fixture(scope="module", params=["nginx", "caddy", "haproxy", "envoy", "envoy by hand"])
def front(
    request: pytest.FixtureRequest, gateway: Gateway, gateways: Gateways, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[FrontProxy]:
    name: str = request.param
    if program(binary_of(name)) is None:
        pytest.skip(f"{name} is not installed")
    proxy = FrontProxy(name, tmp_path_factory.mktemp(binary_of(name)), gateway, gateways.upstreams.web.address)
    yield proxy
    proxy.stop()


@pytest.mark.parametrize(
    ("path", "others", "seen"),
    [
        ("/api/x", "", []),
        ("/api/x", "; theme=dark", [b"theme=dark"]),
        ("/public/x", "", []),
        ("/public/x", "; theme=dark; b=2", [b"theme=dark; b=2"]),
    ],
)
def test_the_upstream_sees_the_other_cookies_only(
    front: FrontProxy, browser: Browser, upstream: RecordingUpstream, path: str, others: str, seen: list[bytes]
) -> None:
    upstream.requests.clear()
    assert front.ask(request(path, fields=[browser.line + others]), "GET").status == 200
    assert [value for value in upstream.only.values("cookie") if value] == seen
    identity = [value for value in upstream.only.values("x-user-email") if value]
    assert identity == ([b"user@example.com"] if path == "/api/x" else [])


def test_a_forged_request_is_refused(front: FrontProxy, browser: Browser, upstream: RecordingUpstream) -> None:
    upstream.requests.clear()
    foreign = request("/api/x", method="POST", fields=[browser.line, "Origin: https://evil.example"], body=b"")
    own = request("/api/x", method="POST", fields=[browser.line, OWN_PAGE], body=b"")
    assert front.ask(foreign, "POST").status == 403
    assert upstream.requests == []
    assert front.ask(own, "POST").status == 200


def test_a_navigation_leads_to_the_sign_in_page(front: FrontProxy) -> None:
    opened = ["Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: document"]
    answer = front.ask(request("/api/x", fields=opened), "GET")
    assert answer.status == 303
    [location] = answer.values("location")
    assert location.endswith(b"/account/sign-in?return_to=%2Fapi%2Fx")
    assert front.ask(request("/account/sign-in", fields=opened), "GET").status == 200
