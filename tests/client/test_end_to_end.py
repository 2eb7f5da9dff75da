"""Assertions end to end: sent to upstreams, impossible to forge, and verified."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest

from tests.support.expectations import passes, refuses
from tests.support.gateways import Gateways, signed_in
from tests.support.processes import PROJECT, Account, Face, Gateway, free_port
from tests.support.raw import ask
from tests.support.recording import RecordingUpstream
from tests.support.token_factory import TokenFactory, claims_of, header_of, token, with_curve
from tests.support.waiting import eventually
from tests.support.websockets import Socket, echoing
from tests.support.wording import bearer, request

HEADER = "x-identity-token"
IDENTITY = {"assertion": {"header": "X-Identity-Token", "ttl": "30s"}}


@pytest.fixture
def gateway(gateways: Gateways, face: Face) -> Gateway:
    return gateways.gateway("asserting", face, identity=IDENTITY)


@pytest.fixture
def user(gateway: Gateway) -> Account:
    return signed_in(gateway, "user@example.com")


def only(values: list[bytes]) -> str:
    (value,) = values
    return value.decode("ascii")


def verified(gateway: Gateway, assertion: str, audience: str = "web") -> dict[str, Any]:
    """The claims of an assertion, verified with the published keys by an independent library."""
    published = jwt.PyJWKSet.from_dict(gateway.get("/.well-known/jwks.json").json())
    key = published[header_of(assertion)["kid"]]
    claims = jwt.decode(assertion, key, algorithms=["ES256"], audience=audience, issuer="gateway")
    assert isinstance(claims, dict)
    return claims


def test_an_upstream_receives_an_assertion_that_it_can_verify(
    gateway: Gateway, upstream: RecordingUpstream, user: Account
) -> None:
    received = passes(gateway, upstream, request("/api/x", fields=[user.line]))
    assertion = only(received.values(HEADER))
    claims = verified(gateway, assertion)
    assert (claims["sub"], claims["email"], claims["roles"]) == (user.id, user.email, ["user"])
    assert claims["exp"] - time.time() > 14 and claims["exp"] - claims["iat"] in (30, 31)
    assert header_of(assertion)["typ"] == "identity+jwt"
    assert only(passes(gateway, upstream, request("/api/y", fields=[user.line])).values(HEADER)) == assertion


SPELLINGS = ["X-Identity-Token", "x-identity-token", "X_Identity_Token", "X.Identity.Token", "x-identity_token"]


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("path", ["/api/x", "/public/x", "/optional/x", "/forwarded/x"])
def test_a_header_of_the_client_with_that_name_is_dropped(
    spelling: str, path: str, gateway: Gateway, upstream: RecordingUpstream, user: Account
) -> None:
    real = only(passes(gateway, upstream, request("/api/x", fields=[user.line])).values(HEADER))
    for value in ("forged", real):
        for signed_in_ in (True, False):
            if not signed_in_ and path not in ("/public/x", "/optional/x"):
                continue
            fields = [f"{spelling}: {value}".encode(), b"Connection: keep-alive, X-Identity-Token"]
            received = passes(gateway, upstream, request(path, fields=fields + [user.line] * signed_in_))
            ours = [real.encode()] if signed_in_ and path != "/public/x" else []
            folded = [given for name, given in received.fields if _folded(name) == HEADER.encode()]
            assert received.values(HEADER) == ours == folded


def _folded(name: bytes) -> bytes:
    return name.lower().replace(b"_", b"-").replace(b".", b"-")


def test_an_anonymous_request_carries_no_assertion(
    gateway: Gateway, upstream: RecordingUpstream, user: Account
) -> None:
    for path, fields in (
        ("/public/x", [user.line]),
        ("/public/x", []),
        ("/optional/x", []),
        ("/optional/x", [bearer("bad")]),
    ):
        assert not passes(gateway, upstream, request(path, fields=fields)).values(HEADER)


def test_a_websocket_handshake_carries_it_too(gateway: Gateway, upstream: RecordingUpstream, user: Account) -> None:
    upstream.requests.clear()
    upstream.on("/sockets/x", echoing())
    with Socket(gateway, "/sockets/x", user.line):
        assert verified(gateway, only(upstream.only.values(HEADER)))["sub"] == user.id


def test_it_opens_nothing_at_the_gateway(
    gateway: Gateway, upstream: RecordingUpstream, user: Account, token_factory: TokenFactory
) -> None:
    """Token type confusion: neither the assertion, nor its claims with the audience and ids of an access token."""
    assertion = only(passes(gateway, upstream, request("/api/x", fields=[user.line])).values(HEADER))
    refuses(gateway, upstream, request("/api/x", fields=[bearer(assertion)]), 401, "token_invalid")
    claims = claims_of(assertion) | {"aud": "gateway", "sid": "s", "jti": "j", "nbf": claims_of(assertion)["iat"]}
    dressed = token(header_of(assertion), claims, with_curve(token_factory.curve))
    refuses(gateway, upstream, request("/api/x", fields=[bearer(dressed)]), 401, "token_invalid")


def test_roles_that_change_are_asserted_at_once(gateways: Gateways, face: Face, upstream: RecordingUpstream) -> None:
    gateway = gateways.gateway("asserting-changes", face, identity=IDENTITY, cache={"user_ttl": "200ms"})
    editor = signed_in(gateway, "editor@example.com")

    def roles() -> list[str]:
        received = passes(gateway, upstream, request("/api/x", fields=[editor.line]))
        found: list[str] = verified(gateway, only(received.values(HEADER)))["roles"]
        return found

    assert roles() == ["editor", "user"]
    gateway.command("users", "set-roles", editor.email, "auditor")
    eventually(lambda: roles() == ["auditor"], timeout=3.0)


def test_a_proxy_that_asks_is_given_the_assertion_of_the_routes_upstream(gateways: Gateways, face: Face) -> None:
    gateway = gateways.gateway("asserting-verify", face, identity=IDENTITY, server={"trusted_proxies": ["127.0.0.0/8"]})
    user = signed_in(gateway, "user@example.com")

    def problem_code(path: str, *fields: bytes) -> str:
        asked = [b"X-Forwarded-Method: GET", f"X-Forwarded-Uri: {path}".encode(), *fields]
        answer = gateway.ask(request("/_gateway/verify", fields=asked))
        assert answer.status == 200, answer.body
        return only(answer.values(HEADER))

    assertion = problem_code("/api/x", user.line)
    assert verified(gateway, assertion)["sub"] == user.id and problem_code("/api/y", user.line) == assertion
    assert (
        problem_code("/optional/x") == problem_code("/public/x", user.line) == ""
    )  # an empty value overwrites the field of a client


# ---- the upstream of the documentation


@pytest.fixture(scope="module")
def documented(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Path]]:
    """The Starlette application of docs/upstream-identity.md under uvicorn: its port, and the file to write."""
    folder = tmp_path_factory.mktemp("documented")
    yield free_port(), folder / "documented.py"


def recipe(jwks_url: str) -> str:
    text = (PROJECT / "docs/upstream-identity.md").read_text(encoding="utf-8")
    code = text.split("```python\n")[1].partition("```")[0]
    assert "https://gateway.internal/.well-known/jwks.json" in code
    return code.replace("https://gateway.internal/.well-known/jwks.json", jwks_url)


def test_the_documented_upstream_knows_the_caller(gateways: Gateways, documented: tuple[int, Path]) -> None:
    port, file = documented
    upstreams = {"orders": {"targets": [f"http://127.0.0.1:{port}"], "eject": None}}
    route = {"path": "/orders/**", "strip_prefix": "/orders", "upstream": "orders"}
    gateway = gateways.gateway("documented", "serve", routes=[route], upstreams=upstreams, identity=IDENTITY)
    user = signed_in(gateway, "both@example.com")
    file.write_text(recipe(f"http://127.0.0.1:{gateway.address[1]}/.well-known/jwks.json"))
    command = [sys.executable, "-m", "uvicorn", "documented:app", "--port", str(port), "--log-level", "warning"]
    server = subprocess.Popen(command, cwd=file.parent, env=os.environ | {"PYTHONPATH": str(PROJECT)})
    try:
        eventually(lambda: _status(port, "/healthz") == 200, timeout=20.0)
        answer = gateway.ask(request("/orders/whoami", fields=[user.line]))
        assert answer.status == 200, answer.body
        assert answer.json() == {"id": user.id, "email": user.email, "roles": ["auditor", "editor", "user"]}
        direct = ask(("127.0.0.1", port), request("/whoami", fields=[user.line, b"X-User-Id: root"]))
        assert direct.refused() == (401, "token_missing")
        stolen = ask(("127.0.0.1", port), request("/whoami", fields=[f"X-Identity-Token: {user.token}".encode()]))
        assert stolen.refused() == (401, "token_invalid")
    finally:
        server.terminate()
        server.wait(10)


def _status(port: int, path: str) -> int:
    try:
        return ask(("127.0.0.1", port), request(path), timeout=1.0).status
    except OSError:
        return 0


def test_a_shared_secret_cannot_sign_assertions_for_upstreams(gateways: Gateways) -> None:
    secret = {"kid": "h", "algorithm": "HS256", "secret": "0123456789abcdef0123456789abcdef"}
    folder = gateways.folder / "assertion-hs256"
    folder.mkdir()
    configuration = gateways.configuration(folder) | {"identity": IDENTITY}
    configuration["tokens"] = {"keys": [secret, *configuration["tokens"]["keys"]]}
    gateway = Gateway("serve", configuration, folder)
    done = subprocess.run(
        [sys.executable, "-m", "gateway", "check", "--config", str(gateway.config), "--json"],
        capture_output=True,
        text=True,
        cwd=PROJECT,
        timeout=30,
    )
    (problem,) = json.loads(done.stdout)["problems"]
    assert done.returncode == 2 and problem["key"] == "identity.assertion" and "HS256" in problem["message"]
