"""Redirects and cookies of an upstream name the gateway, not the target."""

from collections.abc import Iterable

import pytest

from tests.support.gateways import Gateways
from tests.support.processes import Engine, Face, Gateway
from tests.support.raw import Answer
from tests.support.recording import Exchange, RecordingUpstream
from tests.support.scripts import answer
from tests.support.upstreams import Upstreams
from tests.support.wording import request

SHOP = "shop.example.com"


@pytest.fixture
def based(gateways: Gateways, upstreams: Upstreams, face: Face, engine: Engine) -> Gateway:
    """A gateway that trusts this machine, with pages, a base path and with `rewrite_responses: false`."""
    web = upstreams.web.url
    added = {
        "based": {"targets": [f"{web}/api"], "engine": engine, "eject": None},
        "unchanged": {"targets": [web], "rewrite_responses": False, "engine": engine, "eject": None},
        "own": {"targets": [web], "preserve_host": False, "engine": engine, "eject": None},
    }
    routes = [
        {"path": "/based/**", "auth": "none", "upstream": "based"},
        {"path": "/mounted/**", "auth": "none", "upstream": "based", "strip_prefix": "/mounted"},
        {"path": "/moved/**", "auth": "none", "upstream": "based", "rewrite": "/v2/{**}"},
        {"path": "/root", "auth": "none", "upstream": "based", "rewrite": "/"},
        {"path": "/unchanged/**", "auth": "none", "upstream": "unchanged", "strip_prefix": "/unchanged"},
        {"path": "/own/**", "auth": "none", "upstream": "own"},
    ]
    return gateways.gateway(
        "public-addresses",
        face,
        engine,
        routes=routes,
        server={"trusted_proxies": ["127.0.0.0/8"], "public_url": f"https://{SHOP}"},
        sessions={},
        accounts={"pages": {}},
        upstreams=standard_upstreams(gateways, engine) | added,
    )


def standard_upstreams(gateways: Gateways, engine: Engine) -> dict[str, object]:
    configuration = gateways.configuration(gateways.folder, engine)
    upstreams: dict[str, object] = configuration["upstreams"]
    return upstreams


def replied(
    gateway: Gateway,
    upstream: RecordingUpstream,
    target: str,
    sent_to: str,
    lines: Iterable[str],
    *,
    fields: Iterable[str] = (),
    status: int = 302,
) -> Answer:
    """The client's response to a request that the upstream receives at `sent_to` and answers with these lines."""
    upstream.on(sent_to, answer(status, [line.replace("TARGET", upstream.url[7:]) for line in lines]))
    got = gateway.ask(request(target, host=SHOP, fields=fields))
    assert got.status == status, got.body
    return got


REDIRECTS = [
    # ---- the target's own address
    ("/public/x", "/public/x", "http://TARGET/items/?a=1#b", "http://shop.example.com/items/?a=1#b"),
    ("/public/x", "/public/x", "HTTP://TARGET", "http://shop.example.com"),
    ("/public/x", "/public/x", "//TARGET/items/", "//shop.example.com/items/"),
    ("/public/x", "/public/x", "https://TARGET/secure", "https://shop.example.com/secure"),
    ("/stripped/x", "/x", "http://TARGET/items/", "http://shop.example.com/stripped/items/"),
    ("/stripped/x", "/x", "http://TARGET", "http://shop.example.com/stripped/"),
    ("/stripped/x", "/x", "http://TARGET?a=1", "http://shop.example.com/stripped/?a=1"),
    # ---- the Host that the target received
    ("/stripped/x", "/x", "http://shop.example.com/items/", "http://shop.example.com/stripped/items/"),
    ("/stripped/x", "/x", "http://SHOP.example.com:80/items/", "http://shop.example.com/stripped/items/"),
    ("/stripped/x", "/x", "https://shop.example.com/items/", "https://shop.example.com/stripped/items/"),
    # ---- paths
    ("/stripped/x", "/x", "/items/", "/stripped/items/"),
    ("/stripped/x", "/x", "/", "/stripped/"),
    ("/stripped/x", "/x", "/stripped/items/", "/stripped/items/"),
    ("/stripped/x", "/x", "/stripped?a=1", "/stripped?a=1"),
    ("/stripped/x", "/x", "/strippedx", "/stripped/strippedx"),
    # ---- unchanged
    ("/public/x", "/public/x", "/items/", "/items/"),
    ("/stripped/x", "/x", "items/", "items/"),
    ("/stripped/x", "/x", "?page=2", "?page=2"),
    ("/stripped/x", "/x", "", ""),
    ("/stripped/x", "/x", "https://idp.example.com/login", "https://idp.example.com/login"),
    ("/stripped/x", "/x", "http://user@TARGET/x", "http://user@TARGET/x"),
    ("/stripped/x", "/x", "http://TARGET.example.com/x", "http://TARGET.example.com/x"),
    ("/stripped/x", "/x", "http://TARGET:80/x", "http://TARGET:80/x"),
    ("/stripped/x", "/x", "http://shop.example.com:80:80/x", "http://shop.example.com:80:80/x"),
    ("/stripped/x", "/x", "http://shop.example.com:81/x", "http://shop.example.com:81/x"),
    ("/stripped/x", "/x", "mailto:a@b.c", "mailto:a@b.c"),
    ("/turned/a/b", "/admin/b/a", "/admin/c/", "/admin/c/"),
]


@pytest.mark.parametrize(("target", "sent_to", "location", "seen"), REDIRECTS)
def test_a_redirect_names_the_public_address(
    gateway: Gateway, upstream: RecordingUpstream, target: str, sent_to: str, location: str, seen: str
) -> None:
    got = replied(gateway, upstream, target, sent_to, [f"Location: {location}", f"Content-Location: {location}"])
    expected = seen.replace("TARGET", upstream.url[7:]).encode()
    assert (got.value("location"), got.value("content-location")) == (expected, expected)


BASED = [
    ("/based/x", "/api/based/x", "/api/based/y", "/based/y"),
    ("/based/x", "/api/based/x", "/api", "/"),
    ("/based/x", "/api/based/x", "/api?a=1", "/?a=1"),
    ("/based/x", "/api/based/x", "/apiary", "/apiary"),
    ("/based/x", "/api/based/x", "/login", "/login"),
    ("/based/x", "/api/based/x", "http://TARGET/api/based/", "http://shop.example.com/based/"),
    ("/mounted/x", "/api/x", "/api/y/", "/mounted/y/"),
    ("/mounted/x", "/api/x", "http://TARGET/api/y/", "http://shop.example.com/mounted/y/"),
    ("/mounted/x", "/api/x", "/mounted/y/", "/mounted/y/"),
    ("/mounted/x", "/api/x", "/mounted/api/y/", "/mounted/y/"),
    ("/mounted", "/api/", "/api/", "/mounted/"),
    ("/moved/x", "/api/v2/x", "/api/v2/y", "/api/v2/y"),
    # ---- the rest of the path looks like the address of another site
    ("/based/x", "/api/based/x", "/api//evil.test/y", "/.//evil.test/y"),
    ("/based/x", "/api/based/x", "/api/\\evil.test/y", "/./\\evil.test/y"),
    ("/based/x", "/api/based/x", "/api/\t/evil.test/y", "/./\t/evil.test/y"),
    ("/based/x", "/api/based/x", "http://TARGET/api//evil.test", "http://shop.example.com//evil.test"),
    ("/mounted/x", "/api/x", "/api//evil.test/y", "/mounted//evil.test/y"),
    ("/root", "/api/", "http://TARGET/z", "http://shop.example.com/z"),
    ("/unchanged/x", "/x", "http://TARGET/y", "http://TARGET/y"),
    ("/unchanged/x", "/x", "/y", "/y"),
    ("/own/x", "/own/x", "http://TARGET/own/y", "http://shop.example.com/own/y"),
]


@pytest.mark.parametrize(("target", "sent_to", "location", "seen"), BASED)
def test_a_base_path_precedes_the_path_of_requests_and_is_removed_from_redirects(
    based: Gateway, upstream: RecordingUpstream, target: str, sent_to: str, location: str, seen: str
) -> None:
    got = replied(based, upstream, target, sent_to, [f"Location: {location}"])
    assert got.value("location") == seen.replace("TARGET", upstream.url[7:]).encode()


OWN_PAGES = [
    ("/stripped/x", "/x", "/account", "/account"),
    ("/stripped/x", "/x", "/account/sign-out", "/account/sign-out"),
    ("/stripped/x", "/x", "/account/sign-in?next=%2Fstripped%2Fx", "/account/sign-in?next=%2Fstripped%2Fx"),
    ("/stripped/x", "/x", "/account#keys", "/account#keys"),
    ("/stripped/x", "/x", "/_gateway/docs", "/_gateway/docs"),
    ("/stripped/x", "/x", "/.well-known/change-password", "/.well-known/change-password"),
    ("/stripped/x", "/x", "http://shop.example.com/account/sign-out", "http://shop.example.com/account/sign-out"),
    ("/stripped/x", "/x", "http://TARGET/account/sign-out", "http://shop.example.com/account/sign-out"),
    ("/stripped/x", "/x", "//shop.example.com/account?a=1", "//shop.example.com/account?a=1"),
    # ---- paths that the gateway does not serve to browsers belong to the application
    ("/stripped/x", "/x", "/account/orders", "/stripped/account/orders"),
    ("/stripped/x", "/x", "/account/", "/stripped/account/"),
    ("/stripped/x", "/x", "/accounts", "/stripped/accounts"),
    ("/stripped/x", "/x", "/account/verify", "/stripped/account/verify"),
    ("/stripped/x", "/x", "/auth/login", "/stripped/auth/login"),
    ("/stripped/x", "/x", "/_gateway/nothing", "/stripped/_gateway/nothing"),
    ("/stripped/x", "/x", "/stripped/account", "/stripped/account"),
    ("/stripped/x", "/x", "/en//account", "/stripped/en//account"),
    # ---- the base path of the target marks the paths of the application
    ("/mounted/x", "/api/x", "/api/account", "/mounted/account"),
    ("/mounted/x", "/api/x", "/account", "/account"),
    ("/public/x", "/public/x", "/account", "/account"),
]


@pytest.mark.parametrize(("target", "sent_to", "location", "seen"), OWN_PAGES)
def test_a_redirect_to_a_page_of_the_gateway_gets_no_prefix(
    based: Gateway, upstream: RecordingUpstream, target: str, sent_to: str, location: str, seen: str
) -> None:
    lines = [f"Location: {location}", f"Refresh: 0; url={location}"]
    got = replied(based, upstream, target, sent_to, lines)
    assert got.value("location") == seen.encode()
    assert got.value("refresh") == b"0; url=" + seen.encode()


def test_a_redirect_of_an_application_below_a_prefix_leads_to_the_sign_out_page(
    based: Gateway, upstream: RecordingUpstream
) -> None:
    location = replied(based, upstream, "/stripped/x", "/x", ["Location: /account/sign-out"]).value("location")
    assert location is not None
    page = based.ask(request(location.decode(), host=SHOP, fields=["X-Forwarded-Proto: https"]))
    assert (page.status, b"<title>" in page.body) == (200, True)


def test_without_pages_their_paths_belong_to_the_application(gateway: Gateway, upstream: RecordingUpstream) -> None:
    got = replied(gateway, upstream, "/stripped/x", "/x", ["Location: /account/sign-out"])
    assert got.value("location") == b"/stripped/account/sign-out"


FORWARDED = [
    "X-Forwarded-Proto: https, http",
    "X-Forwarded-Host: www.example.org:8443, inner",
    "X-Forwarded-Prefix: /eu",
]


@pytest.mark.parametrize(
    ("target", "sent_to", "location", "seen"),
    [
        ("/public/x", "/public/x", "http://TARGET/y", "https://www.example.org:8443/eu/y"),
        ("/public/x", "/public/x", "http://shop.example.com/y", "https://www.example.org:8443/eu/y"),
        ("/public/x", "/public/x", "https://www.example.org:8443/eu/y", "https://www.example.org:8443/eu/y"),
        ("/public/x", "/public/x", "/y", "/y"),
        ("/stripped/x", "/x", "/y", "/eu/stripped/y"),
        ("/stripped/x", "/x", "/eu/stripped/y", "/eu/stripped/y"),
        ("/mounted/x", "/api/x", "/api/y", "/eu/mounted/y"),
        ("/stripped/x", "/x", "/account/sign-out", "/eu/account/sign-out"),
        ("/stripped/x", "/x", "http://TARGET/account?a=1", "https://www.example.org:8443/eu/account?a=1"),
    ],
)
def test_the_public_address_is_the_one_that_a_trusted_proxy_states(
    based: Gateway, upstream: RecordingUpstream, target: str, sent_to: str, location: str, seen: str
) -> None:
    got = replied(based, upstream, target, sent_to, [f"Location: {location}"], fields=FORWARDED)
    assert got.value("location") == seen.encode()


def test_a_forged_host_of_a_trusted_proxy_is_not_written_into_a_redirect(
    based: Gateway, upstream: RecordingUpstream
) -> None:
    fields = ["X-Forwarded-Host: evil.test/x@"]
    got = replied(based, upstream, "/public/x", "/public/x", ["Location: http://TARGET/y"], fields=fields)
    assert got.value("location") == b"/y"


@pytest.mark.parametrize(
    "forged",
    ["X-Forwarded-Prefix: //evil.test", "X-Forwarded-Prefix: .evil.test", "X-Forwarded-Prefix: /\\evil.test",
     "X-Forwarded-Prefix: https://evil.test/", "X-Forwarded-Prefix: /;Domain=test", "X-Forwarded-Prefix: /a /b",
     "X-Forwarded-Proto: javascript", "X-Forwarded-Port: 80@evil.test"],
)  # fmt: skip
def test_a_value_of_a_trusted_proxy_that_is_no_prefix_scheme_or_port_is_ignored(
    based: Gateway, upstream: RecordingUpstream, forged: str
) -> None:
    """Many proxies forward the X-Forwarded-Prefix of their clients."""
    lines = ["Location: http://TARGET/y", "Content-Location: /y", "Set-Cookie: a=1; Path=/"]
    got = replied(based, upstream, "/mounted/x", "/api/x", lines, fields=[forged])
    assert got.value("location") == b"http://shop.example.com/y"
    assert got.value("set-cookie") == b"a=1; Path=/mounted"
    received = upstream.requests[-1]
    assert received.values("x-forwarded-prefix") == [b"/mounted"]
    assert received.values("x-forwarded-port") == [b"80"]
    got = replied(based, upstream, "/stripped/x", "/x", lines, fields=[forged])
    assert got.value("location") == b"http://shop.example.com/stripped/y"
    assert got.value("content-location") == b"/stripped/y"


def test_an_untrusted_client_does_not_choose_the_address_of_a_redirect(
    gateway: Gateway, upstream: RecordingUpstream
) -> None:
    got = replied(gateway, upstream, "/stripped/x", "/x", ["Location: http://TARGET/y"], fields=FORWARDED)
    assert got.value("location") == b"http://shop.example.com/stripped/y"


def test_a_client_without_a_host_gets_a_path(gateway: Gateway, upstream: RecordingUpstream) -> None:
    upstream.on("/x", answer(302, [f"Location: {upstream.url}/y"]))
    got = gateway.ask(request("/stripped/x", version="1.0", host=None))
    assert got.value("location") == b"/stripped/y"


def test_a_client_without_a_host_gets_no_path_that_names_another_site(
    gateway: Gateway, upstream: RecordingUpstream
) -> None:
    upstream.on("/public/x", answer(302, [f"Location: {upstream.url}//evil.test/y"]))
    got = gateway.ask(request("/public/x", version="1.0", host=None))
    assert got.value("location") == b"/.//evil.test/y"


def test_a_refresh_without_the_base_path_names_no_other_site(based: Gateway, upstream: RecordingUpstream) -> None:
    lines = ["Refresh: 0; url=/api//evil.test/"]
    got = replied(based, upstream, "/based/x", "/api/based/x", lines, status=200)
    assert got.value("refresh") == b"0; url=/.//evil.test/"


@pytest.mark.parametrize(
    ("refresh", "seen"),
    [
        ("5; url=http://TARGET/y", "5; url=http://shop.example.com/stripped/y"),
        ("0;URL='/y'", "0;URL='/stripped/y'"),
        ('0, url = "http://TARGET/y" ; x', '0, url = "http://shop.example.com/stripped/y" ; x'),
        ("0; /y", "0; /stripped/y"),
        ("30", "30"),
        ("0; url=https://idp.example.com/", "0; url=https://idp.example.com/"),
    ],
)
def test_a_refresh_names_the_public_address(
    gateway: Gateway, upstream: RecordingUpstream, refresh: str, seen: str
) -> None:
    got = replied(gateway, upstream, "/stripped/x", "/x", [f"Refresh: {refresh}"], status=200)
    assert got.value("refresh") == seen.encode()


COOKIES = [
    ("/stripped/x", "/x", "a=1; Path=/; HttpOnly", "a=1; Path=/stripped; HttpOnly"),
    ("/stripped/x", "/x", "a=1;path=/admin", "a=1;path=/stripped/admin"),
    ("/stripped/x", "/x", "a=1; Path=/account", "a=1; Path=/stripped/account"),
    ("/stripped/x", "/x", "a=1; Path=/stripped/admin", "a=1; Path=/stripped/admin"),
    ("/stripped/x", "/x", "a=Path=/x", "a=Path=/x"),
    ("/stripped/x", "/x", "a=1; Secure", "a=1; Secure"),
    ("/stripped/x", "/x", "__Host-a=1; Secure; Path=/", "__Host-a=1; Secure; Path=/"),
    ("/stripped/x", "/x", "__Secure-a=1; Secure; Path=/", "__Secure-a=1; Secure; Path=/stripped"),
    ("/public/x", "/public/x", "a=1; Path=/", "a=1; Path=/"),
    ("/mounted/x", "/api/x", "a=1; Path=/api", "a=1; Path=/mounted"),
    ("/mounted/x", "/api/x", "a=1; Path=/api/y", "a=1; Path=/mounted/y"),
    ("/mounted/x", "/api/x", "a=1; Path=/", "a=1; Path=/mounted"),
    ("/based/x", "/api/based/x", "a=1; Path=/api/based", "a=1; Path=/based"),
    ("/based/x", "/api/based/x", "a=1; Path=/api", "a=1; Path=/"),
    ("/unchanged/x", "/x", "a=1; Path=/", "a=1; Path=/"),
]


@pytest.mark.parametrize(("target", "sent_to", "cookie", "seen"), COOKIES)
def test_a_cookie_has_the_public_path(
    based: Gateway, upstream: RecordingUpstream, target: str, sent_to: str, cookie: str, seen: str
) -> None:
    lines = [f"Set-Cookie: {cookie}", "Set-Cookie: other=2; Max-Age=1"]
    got = replied(based, upstream, target, sent_to, lines, status=200)
    assert got.values("set-cookie") == [seen.encode(), b"other=2; Max-Age=1"]


def test_repeated_responses_are_rewritten_for_each_client(gateway: Gateway, upstream: RecordingUpstream) -> None:
    upstream.on("/x", answer(302, [f"Location: {upstream.url}/y"]))
    with gateway.caller() as caller:
        for host in ("one.example.com", "two.example.com", "one.example.com"):
            caller.send(request("/stripped/x", host=host))
            assert caller.receive().value("location") == f"http://{host}/stripped/y".encode()


def test_a_location_in_a_trailer_is_dropped(gateway: Gateway, upstream: RecordingUpstream) -> None:
    if gateway.face == "asgi" or gateway.engine == "httpx":
        pytest.skip("no trailers")

    async def trailing(exchange: Exchange) -> None:
        head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        await exchange.send(head + b"0\r\nLocation: http://10.0.0.1/\r\nX-Sum: 1\r\n\r\n")

    upstream.on("/x", trailing)
    assert gateway.get("/stripped/x").trailers == ((b"X-Sum", b"1"),)
