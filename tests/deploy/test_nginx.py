"""nginx as the TLS terminator, with the snippet of the deployment guide (without its TLS)."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.snippets import NGINX
from bench.upstream import find_nginx
from tests.cli.running import ROOT
from tests.gate.forward_auth.test_front_proxies import NOT_FOR_CALLERS, UNLISTED
from tests.support.gateways import Gateways
from tests.support.processes import Account, Gateway, free_port
from tests.support.raw import Address, Caller
from tests.support.recording import RecordingUpstream
from tests.support.scripts import raw, response
from tests.support.waiting import eventually
from tests.support.wording import chunked, request

STRANGER = "127.0.0.9"


@pytest.fixture(scope="module")
def gateway(gateways: Gateways) -> Gateway:
    return gateways.gateway("behind", "serve", server={"trusted_proxies": ["127.0.0.1/32"]})


@pytest.fixture(scope="module")
def front(gateway: Gateway, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Address]:
    nginx = find_nginx()
    if nginx is None:
        pytest.skip("nginx is not installed")
    folder, port = tmp_path_factory.mktemp("nginx"), free_port()
    text = (ROOT / "docs/deployment/balancer.md").read_text("utf-8")
    found = re.search(r"^```nginx\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert found is not None
    snippet = found[1].replace("listen 443 ssl;", f"listen 127.0.0.1:{port};")
    snippet = snippet.replace("server 127.0.0.1:8000;", f"server 127.0.0.1:{gateway.address[1]};")
    file = folder / "nginx.conf"
    file.write_text(NGINX.format(folder=folder, snippet=snippet))
    process = subprocess.Popen([nginx, "-p", str(folder), "-e", str(folder / "error.log"), "-c", str(file)])
    try:
        eventually(lambda: _listens(process, folder, port), timeout=20)
        yield "127.0.0.1", port
    finally:
        process.terminate()
        process.wait(10)


def _listens(process: "subprocess.Popen[bytes]", folder: Path, port: int) -> bool:
    assert process.poll() is None, (folder / "error.log").read_text()
    try:
        Caller(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


def test_the_gateway_knows_the_client_and_trusts_only_nginx(
    front: Address, upstream: RecordingUpstream, user: Account
) -> None:
    lies = ["X-Forwarded-For: 10.6.6.6", "X-User-Id: root", "X-Forwarded-Host: evil.example"]
    with Caller(front, source=STRANGER) as caller:
        assert caller.send(request("/api/x?a=%2e", fields=[user.line, *lies])).receive().status == 200
    received = upstream.only
    assert received.target == b"/api/x?a=%2e"
    assert received.values("x-user-id") == [user.id.encode()]
    assert received.values("x-forwarded-for") == [STRANGER.encode() + b", 127.0.0.1"]
    assert received.values("x-forwarded-host")[0].startswith(b"gateway.test")


@pytest.mark.parametrize(
    "target", ["/_gateway/verify", "/_gateway/verify/", "/_gateway/%76erify?x", "/_gateway//verify"]
)
def test_a_stranger_cannot_ask_through_it(front: Address, user: Account, target: str) -> None:
    with Caller(front, source=STRANGER) as caller:
        answer = caller.send(request(target, fields=[user.line, "X-Forwarded-Uri: /api/x"])).receive()
    assert answer.status == 404
    assert not answer.head.has("x-user-id")


def test_an_untrusted_client_cannot_set_the_headers_of_nginx(front: Address, upstream: RecordingUpstream) -> None:
    names = [name for name in NOT_FOR_CALLERS if name != UNLISTED]
    for joint in "-_.!~":
        fields = [f"{name.replace('-', joint)}: f0rged" for name in names]
        upstream.requests.clear()
        with Caller(front, source=STRANGER) as caller:
            assert caller.send(request("/public/x", fields=fields)).receive().status == 200
        assert b"f0rged" not in upstream.only.head


@pytest.mark.parametrize("target", ["/public/%2e%2e/admin/x", "/public//x", "/public/a%2fb", "/public/..;/x"])
def test_nginx_changes_no_path_that_the_gateway_refuses(
    front: Address, upstream: RecordingUpstream, target: str
) -> None:
    with Caller(front, source=STRANGER) as caller:
        assert caller.send(request(target)).receive().status == 400
    assert upstream.requests == []


def test_event_streams_and_chunked_uploads_pass(front: Address, upstream: RecordingUpstream) -> None:
    head = response(200, ["Content-Type: text/event-stream", "Transfer-Encoding: chunked"], None)
    upstream.on("/public/events", raw(head, b"8\r\ndata: 1\n\r\n", b"0\r\n\r\n", pause=0.5))
    with Caller(front, source=STRANGER) as caller:
        pieces: list[bytes] = []
        streamed = caller.send(request("/public/events")).receive_head()
        caller.receive_body(streamed, pieces.append)
        assert b"".join(pieces) == b"data: 1\n"
    with Caller(front, source=STRANGER) as caller:
        data = request("/public/up", method="POST", fields=["Transfer-Encoding: chunked"]) + chunked(b"abc", b"d")
        assert caller.send(data).receive("POST").status == 200
    assert bytes(upstream.requests[-1].body) == b"abcd"
