"""Credentials are never logged or traced, wherever a client puts them."""

import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from gateway.observability.escaping import without_tokens
from tests.observability.collector import collecting
from tests.support.fleet import Fleet
from tests.support.processes import PASSWORD, Gateway, free_port
from tests.support.small import Start, start
from tests.support.wording import request

__all__ = ["start"]

KEY = "gwk_" + "K" * 43
REFRESH = "gwr_" + "R" * 64
NAMES = ("Authorization: Bearer", "Authorization: Basic", "Cookie:", "Referer:", "X-Custom:", "X-Request-Id:")


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    started = Fleet("a")
    yield started
    started.stop()


def plant(gateway: Gateway, token: str) -> None:
    """Send a credential in every possible place, valid or invalid."""
    for secret in (token, KEY, REFRESH):
        gateway.get(f"/web/{secret}")
        gateway.get(f"/web/reset/{secret}/now?x=1")
        gateway.get(f"/nowhere/{secret}")
        gateway.get(f"/users/{secret}")
        gateway.get(f"/gone/{secret}")
        gateway.get(f"/web/x?token={secret}&y={quote(secret)}")
        gateway.get(f"/web/x#{secret}")
        gateway.get(f"http://user:{secret}@127.0.0.1/web/x")
        gateway.get(f"/web/..%2f{secret}")
        for name in (
            "Authorization: Bearer",
            "Authorization: Basic",
            "Cookie:",
            "Referer:",
            "X-Custom:",
            "X-Request-Id:",
        ):
            for path in ("/web/x", "/users/x", "/gone/x"):
                gateway.get(path, f"{name} {secret}"[:4000])
        gateway.get("/users/x", f"Authorization: Bearer {secret}", f"X-Request-Id: {secret}"[:140])
        gateway.get(
            "/sockets/x", "Upgrade: websocket", "Connection: Upgrade", f"Sec-WebSocket-Protocol: bearer, {secret}"
        )
        for path in ("/web/x", "/auth/login", "/auth/refresh"):
            gateway.post(path, {"email": secret, "password": secret, "refresh_token": secret})
        gateway.ask(request("/auth/login", method="POST", fields=["Content-Type: text/plain"], body=secret.encode()))
    gateway.post("/auth/login", {"email": "planted@example.com", "password": PASSWORD + "!"})


@pytest.mark.parametrize("form", ["json", "text"])
def test_no_log_line_and_no_span_holds_a_credential(form: str, start: Start, fleet: Fleet) -> None:
    routes = [{"path": "/users/{id}", "upstream": "web"}, {"path": "/sockets/x", "upstream": "web", "websocket": True}]
    upstreams = {"web": fleet.urls, "gone": f"http://127.0.0.1:{free_port()}"}
    with collecting() as collector:
        observability = {
            "access_log": form,
            "decision_log": {"refusals": True, "allows": 1},
            "tracing": {"otlp_endpoint": collector.url},
        }
        gateway = start(upstreams, routes=routes, observability=observability)
        account = gateway.register("planted@example.com")
        plant(gateway, account.token)
        assert gateway.stop() == 0
        log = gateway.log()
        spans = collector.raw.decode("latin-1")
    signature = account.token.rpartition(".")[2]
    for secret in (account.token, signature, KEY, REFRESH, "K" * 43, "R" * 64, PASSWORD):
        assert secret not in log, secret
        assert secret not in spans, secret
    assert log.count("[secret]") > 20, "it was there, and was taken out"
    assert len(spans) > 1000
    if form == "json":
        for line in log.splitlines():
            assert not line.startswith("{") or json.loads(line)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("/a/eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln/b", "/a/[secret]/b"),
        (f"/a/{KEY}", "/a/[secret]"),
        (f"{REFRESH}", "[secret]"),
        ("/gwk/x", "/gwk/x"),
        ("/gateway/eyJ", "/gateway/eyJ"),
        ("/keyJar.x/y", "/keyJar.x/y"),
    ],
)
def test_only_text_like_a_credential_is_removed(text: str, kept: str) -> None:
    assert without_tokens(text) == kept


def test_the_project_has_no_log_that_this_does_not_see() -> None:
    """A new log with request data must be added to the credentials above."""
    rooms = Path(__file__).parents[2] / "gateway/observability"
    writers = {file.name for file in rooms.rglob("*.py") if "request_id.decode" in file.read_text()}
    assert writers == {"observer.py", "decision_log.py", "shadow_log.py", "tracing.py"}
