"""Fetching documents: limits on time, size and location, and a single error type."""

import asyncio
import gzip
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import respx

from gateway.identity.discovery import fetch as fetching
from gateway.identity.discovery.fetch import MAX_SIZE, FetchFailed, fetch
from gateway.identity.discovery.jwks_client import discovered_keys, keys_at
from gateway.wire.addresses import is_loopback, is_trusted_transport
from tests.support.issuers import DISCOVERY, JWKS, Issuer

ADDRESS = "https://idp.example/jwks"


def all_subclasses(kind: type[BaseException]) -> Iterator[type[BaseException]]:
    for each in kind.__subclasses__():
        yield each
        yield from all_subclasses(each)


@respx.mock
async def test_a_document_comes_with_the_time_it_may_be_used() -> None:
    route = respx.get(ADDRESS).respond(200, content=b"{}", headers={"Cache-Control": "public, max-age=300"})
    assert await fetch(ADDRESS) == (b"{}", 300.0)
    sent = route.calls[0].request
    assert sent.headers["accept-encoding"] == "identity" and "cookie" not in sent.headers


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("", None),
        ("public", None),
        ("max-age=60", 60.0),
        ("MAX-AGE=60", 60.0),
        ('max-age="60"', 60.0),
        ("public,max-age=60,must-revalidate", 60.0),
        ("s-maxage=10", None),
        ("s-maxage=10, max-age=60", 60.0),
        ("max-age=-1", None),
        ("max-age=1e9", None),
        ("max-age=99999999999999999999", None),
        ("max-age=60, no-cache", 0.0),
        ("no-store", 0.0),
        ("max-age=60; x", None),
    ],
)
@respx.mock
async def test_cache_control_is_read_as_it_is_meant(value: str, seconds: float | None) -> None:
    respx.get(ADDRESS).respond(200, content=b"{}", headers={"Cache-Control": value} if value else {})
    assert (await fetch(ADDRESS)).max_age == seconds


@pytest.mark.parametrize("status", [201, 204, 206, 301, 302, 307, 308, 304, 400, 401, 404, 500, 503])
@respx.mock
async def test_only_a_whole_answer_is_one_and_no_redirect_is_followed(status: int) -> None:
    elsewhere = respx.get("https://elsewhere.example/").respond(200, content=b"{}")
    respx.get(ADDRESS).respond(status, headers={"Location": "https://elsewhere.example/"})
    with pytest.raises(FetchFailed, match=f"answered {status}"):
        await fetch(ADDRESS)
    assert not elsewhere.called


@respx.mock
async def test_an_oversized_body_is_read_no_further() -> None:
    respx.get(ADDRESS).respond(200, content=b" " * MAX_SIZE)
    assert len((await fetch(ADDRESS)).text) == MAX_SIZE
    read = []

    async def endless() -> Any:
        while True:
            read.append(1)
            yield b" " * 4096

    respx.get(ADDRESS).respond(200, stream=endless())
    with pytest.raises(FetchFailed, match="over"):
        await fetch(ADDRESS)
    assert len(read) <= MAX_SIZE // 4096 + 1


@respx.mock
async def test_an_encoding_that_was_not_asked_for_is_not_unpacked() -> None:
    bomb = gzip.compress(b" " * 10_000_000)
    respx.get(ADDRESS).respond(200, content=bomb, headers={"Content-Encoding": "gzip"})
    with pytest.raises(FetchFailed, match="encoding"):
        await fetch(ADDRESS)


FOREIGN = sorted({*all_subclasses(httpx.HTTPError), *all_subclasses(httpx.StreamError)}, key=lambda kind: kind.__name__)
OTHERS = [httpx.InvalidURL, httpx.CookieConflict, OSError, ConnectionResetError, TimeoutError, UnicodeError, ValueError]


@pytest.mark.parametrize("kind", [*FOREIGN, *OTHERS], ids=lambda kind: kind.__name__)
async def test_foreign_errors_stop_here(kind: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(**_: Any) -> Any:
        raise kind.__new__(kind)  # each has its own arguments, which do not matter here

    monkeypatch.setattr(httpx, "AsyncClient", failing)
    with pytest.raises(FetchFailed):
        await fetch(ADDRESS)


@pytest.mark.parametrize("address", ["http://idp.example/jwks", "ftp://127.0.0.1/", "file:///etc/passwd", "", "https:"])
@respx.mock(assert_all_called=False)
async def test_nothing_is_asked_for_on_a_way_that_others_can_read(address: str, respx_mock: respx.MockRouter) -> None:
    anything = respx_mock.route().respond(200, content=b"{}")
    with pytest.raises(FetchFailed):
        await fetch(address)
    assert not anything.called


@pytest.mark.parametrize(
    ("address", "loopback"),
    [
        ("http://127.0.0.1/", True),
        ("http://127.8.9.1:80/", True),
        ("http://[::1]:80/", True),
        ("http://localhost/", True),
        ("http://LOCALHOST.:80/x", True),
        ("http://localhost.example/", False),
        ("http://127.0.0.1.example/", False),
        ("http://127.0.0.1@evil.example/", False),
        ("http://evil.example/127.0.0.1", False),
        ("http://0.0.0.0/", False),
        ("http://10.0.0.1/", False),
        ("http://[::ffff:10.0.0.1]/", False),
        ("http://2130706433/", False),
        ("http://", False),
        ("http://[", False),
        ("", False),
    ],
)
def test_loopback_addresses_are_distinguished_from_others(address: str, loopback: bool) -> None:
    assert is_loopback(address) is loopback
    assert is_trusted_transport(address) is loopback
    if address.startswith("http"):
        assert is_trusted_transport(address.replace("http", "https", 1))


# ---- over sockets


class Silent:
    """A server that accepts a connection, sends `first`, and then nothing."""

    def __init__(self, first: bytes = b"") -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/jwks"
        self._first = first
        self._taken: list[socket.socket] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                taken, _ = self._listener.accept()
            except OSError:
                return
            taken.sendall(self._first)
            self._taken.append(taken)

    def close(self) -> None:
        for held in (self._listener, *self._taken):
            held.close()


HALF = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"


@pytest.mark.parametrize("first", [b"", b"HTTP/1.1 200", HALF], ids=["silent", "half a head", "half a body"])
async def test_an_endless_response_is_cut_off(first: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "LIMIT", 0.3)
    server = Silent(first)
    try:
        async with asyncio.timeout(5):
            with pytest.raises(FetchFailed):
                await fetch(server.url)
    finally:
        server.close()


async def test_a_proxy_of_the_environment_sees_nothing_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = Silent(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]")
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, proxy.url.removesuffix("/jwks"))
    issuer = Issuer().start()
    try:
        assert json.loads((await fetch(issuer.url + JWKS)).text)["keys"]
    finally:
        issuer.stop()
        proxy.close()


# ---- locating the keys


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    issuer = Issuer().start()
    yield issuer
    issuer.stop()


async def test_keys_are_found_by_discovery_and_at_an_address(issuer: Issuer) -> None:
    for found in (discovered_keys(issuer.url), keys_at(issuer.url + JWKS)):
        assert len(json.loads((await found()).text)["keys"]) == 2
    assert issuer.asked == {DISCOVERY: 1, JWKS: 2}


@respx.mock
async def test_a_slash_at_the_end_of_an_issuer_is_no_part_of_the_path() -> None:
    respx.get("https://idp.example/t/.well-known/openid-configuration").respond(
        json={"issuer": "https://idp.example/t/", "jwks_uri": "https://keys.example/jwks"}
    )
    respx.get("https://keys.example/jwks").respond(json={"keys": []})
    assert (await discovered_keys("https://idp.example/t/")()).text == b'{"keys":[]}'


KEYS = "https://idp.example/jwks"


@pytest.mark.parametrize(
    "configuration",
    [
        {"issuer": "https://idp.example/", "jwks_uri": KEYS},
        {"issuer": "https://IDP.example", "jwks_uri": KEYS},
        {"issuer": "https://evil.example", "jwks_uri": KEYS},
        {"issuer": None, "jwks_uri": KEYS},
        {"jwks_uri": KEYS},
        {"issuer": "https://idp.example"},
        {"issuer": "https://idp.example", "jwks_uri": 1},
        {"issuer": "https://idp.example", "jwks_uri": ""},
        {"issuer": "https://idp.example", "jwks_uri": "/jwks"},
        {"issuer": "https://idp.example", "jwks_uri": "http://idp.example/jwks"},
        {"issuer": "https://idp.example", "jwks_uri": "http://127.0.0.1:1/jwks"},
        {"issuer": "https://idp.example", "jwks_uri": "https://localhost/jwks"},
        {"issuer": "https://idp.example", "jwks_uri": "file:///etc/passwd"},
        [],
        "x",
    ],
)
@respx.mock(assert_all_called=False)
async def test_a_configuration_that_is_not_the_issuers_own_leads_nowhere(
    configuration: Any, respx_mock: respx.MockRouter
) -> None:
    respx_mock.get("https://idp.example" + DISCOVERY).respond(json=configuration)
    keys = respx_mock.route(path="/jwks").respond(json={"keys": []})
    with pytest.raises(FetchFailed):
        await discovered_keys("https://idp.example")()
    assert not keys.called


@respx.mock
async def test_a_configuration_that_is_no_json_leads_nowhere() -> None:
    for text in (b"", b"<html>", b'{"issuer":1,"issuer":2}', b"\xff"):
        respx.get("https://idp.example" + DISCOVERY).respond(content=text)
        with pytest.raises(FetchFailed):
            await discovered_keys("https://idp.example")()


def test_httpx_is_imported_for_the_first_document_only() -> None:
    program = "import sys, gateway.server.resources, gateway.app; sys.exit('httpx' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
