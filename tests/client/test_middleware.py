"""The middleware for upstreams: it verifies the caller, or refuses the request."""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes

from gateway.client import AssertionVerifier, Identity, IdentityMiddleware
from gateway.client.middleware import Message, Receive, Scope, Send
from gateway.errors import Refusal
from tests.support.asgi_server import Server
from tests.support.issuers import JWKS, Issuer, jwk_of
from tests.support.token_factory import token, unsigned, with_curve, with_rsa

AUDIENCE = "orders"


@pytest.fixture
def keys() -> Iterator[Issuer]:
    """The server of the gateway's keys; its key `c1` signs the assertions."""
    issuer = Issuer().start()
    yield issuer
    issuer.stop()


def claims(**changes: Any) -> dict[str, Any]:
    now = int(time.time())
    good: dict[str, Any] = {
        "iss": "gateway",
        "aud": AUDIENCE,
        "sub": "u1",
        "email": "ann@example.com",
        "roles": ["editor", "user"],
        "iat": now,
        "exp": now + 60,
    }
    return {name: value for name, value in (good | changes).items() if value is not None}


def header(**changes: Any) -> dict[str, Any]:
    good = {"alg": "ES256", "kid": "c1", "typ": "identity+jwt"}
    return {name: value for name, value in (good | changes).items() if value is not None}


def assertion(keys: Issuer, head: dict[str, Any] | None = None, **changes: Any) -> bytes:
    return token(header() if head is None else head, claims(**changes), with_curve(keys.curve)).encode()


class App:
    """An application that records its calls."""

    def __init__(self) -> None:
        self.scopes: list[Scope] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scopes.append(scope)
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body"})
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})

    @property
    def identity(self) -> Identity | None:
        found: Identity | None = self.scopes[-1]["state"]["identity"]
        return found


class Harness:
    def __init__(self, keys: Issuer, **options: Any) -> None:
        self.app = App()
        self.middleware = IdentityMiddleware(
            self.app, **({"jwks_url": keys.url + JWKS, "audience": AUDIENCE} | options)
        )

    async def get(self, *fields: tuple[bytes, bytes], path: str = "/x", **scope: Any) -> list[Message]:
        sent: list[Message] = []

        async def send(message: Message) -> None:
            sent.append(message)

        async def receive() -> Message:
            return {"type": "http.request", "body": b"", "more_body": False}

        await self.middleware({"type": "http", "path": path, "headers": list(fields), **scope}, receive, send)
        return sent

    async def refuses(self, *fields: tuple[bytes, bytes], code: str = "token_invalid") -> dict[bytes, bytes]:
        """The middleware answers 401 without calling the application."""
        before = len(self.app.scopes)
        start, body = await self.get(*fields)
        problem = json.loads(body["body"])
        assert (start["status"], problem["status"], problem["code"]) == (401, 401, code)
        assert len(self.app.scopes) == before
        return dict(start["headers"])


def carried(value: bytes) -> tuple[bytes, bytes]:
    return (b"x-identity-token", value)


# ---- accepted requests


async def test_a_good_assertion_is_an_identity(keys: Issuer) -> None:
    harness = Harness(keys)
    assert (await harness.get(carried(assertion(keys))))[0]["status"] == 204
    assert harness.app.identity == Identity("u1", "ann@example.com", frozenset(["editor", "user"]))
    await harness.get(carried(assertion(keys, email=None, roles=[], sub="idp|bob")))
    assert harness.app.identity == Identity("idp|bob", "", frozenset())


async def test_the_state_that_requests_share_is_left_alone(keys: Issuer) -> None:
    harness, shared = Harness(keys), {"pool": object()}
    await harness.get(carried(assertion(keys)), state=shared)
    assert harness.app.scopes[-1]["state"]["pool"] is shared["pool"] and "identity" not in shared


async def test_the_keys_are_fetched_once_for_many(keys: Issuer) -> None:
    harness = Harness(keys)
    await asyncio.gather(*(harness.get(carried(assertion(keys, sub=f"u{number}"))) for number in range(20)))
    assert len(harness.app.scopes) == 20 and keys.asked[JWKS] == 1


async def test_a_new_key_of_the_gateway_is_accepted(keys: Issuer) -> None:
    harness = Harness(keys)
    await harness.get(carried(assertion(keys)))
    keys.keys.insert(0, jwk_of(keys.curve, "c2"))
    await harness.get(carried(assertion(keys, header(kid="c2"))))
    assert len(harness.app.scopes) == 2


async def test_a_gateway_that_is_down_invalidates_no_cached_keys(keys: Issuer) -> None:
    harness = Harness(keys)
    await harness.get(carried(assertion(keys)))
    keys.stop()
    await harness.get(carried(assertion(keys, sub="u2")))
    assert harness.app.identity is not None and harness.app.identity.id == "u2"
    await harness.refuses(carried(assertion(keys, header(kid="c2"))))


async def test_without_any_keys_it_is_503(keys: Issuer) -> None:
    keys.stop()
    start, body = await Harness(keys).get(carried(assertion(keys)))
    assert start["status"] == 503 and json.loads(body["body"])["code"] == "upstream_unavailable"


async def test_another_header_and_another_issuer_can_be_named(keys: Issuer) -> None:
    harness = Harness(keys, header="X-Caller", issuer="https://gw/")
    good = assertion(keys, iss="https://gw/")
    await harness.get((b"x-caller", good))
    assert harness.app.identity is not None
    await harness.refuses(carried(good), code="token_missing")


async def test_requests_without_a_caller_pass(keys: Issuer) -> None:
    harness = Harness(keys, public=["/healthz"])
    assert (await harness.get(path="/healthz"))[0]["status"] == 204 and harness.app.identity is None
    assert (await harness.get(path="/healthz/"))[0]["status"] == 401
    optional = Harness(keys, required=False)
    assert (await optional.get())[0]["status"] == 204 and optional.app.identity is None
    await optional.refuses(carried(b"x"))  # an invalid assertion is not a missing one
    await harness.middleware({"type": "lifespan"}, None, None)  # type: ignore[arg-type]
    assert harness.app.scopes[-1] == {"type": "lifespan"}


# ---- refused requests


async def test_without_an_assertion_it_is_401_with_a_challenge(keys: Issuer) -> None:
    fields = await Harness(keys).refuses(code="token_missing")
    assert fields[b"www-authenticate"] == b"Bearer" and fields[b"cache-control"] == b"no-store"
    assert fields[b"content-type"] == b"application/problem+json" and int(fields[b"content-length"]) > 0
    fields = await Harness(keys).refuses(carried(b"x"), (b"x-request-id", b"r-1"))
    assert fields[b"www-authenticate"] == b'Bearer error="invalid_token"' and fields[b"x-request-id"] == b"r-1"


async def test_two_assertions_are_none(keys: Issuer) -> None:
    await Harness(keys).refuses(carried(assertion(keys)), (b"X-Identity-Token", assertion(keys, sub="u2")))


WRONG: dict[str, dict[str, Any]] = {
    "another issuer": {"iss": "other"},
    "another upstream": {"aud": "billing"},
    "an upstream that begins alike": {"aud": "orders2"},
    "no audience": {"aud": None},
    "no subject": {"sub": None},
    "an empty subject": {"sub": ""},
    "no roles": {"roles": None},
    "roles in a text": {"roles": "admin"},
    "roles that are no texts": {"roles": [1]},
    "an address that is no text": {"email": 1},
    "no end": {"exp": None},
    "an end in text": {"exp": "9999999999"},
    "no beginning": {"iat": None},
    "issued in the future": {"iat": int(time.time()) + 3600},
}


@pytest.mark.parametrize("case", WRONG)
async def test_an_assertion_with_other_claims_is_refused(case: str, keys: Issuer) -> None:
    await Harness(keys).refuses(carried(assertion(keys, **WRONG[case])))


HEADERS: dict[str, dict[str, Any]] = {
    "an access token": header(typ="at+jwt"),
    "a plain token": header(typ="JWT"),
    "no type": header(typ=None),
    "a type that is no text": header() | {"typ": ["identity+jwt"]},
    "an unknown key": header(kid="c9"),
    "the other key": header(kid="r1"),
    "no key": header(kid=None),
    "another algorithm": header(alg="ES384"),
    "HS256": header(alg="HS256"),
    "none": header(alg="none"),
    "crit": header(crit=["x"]),
}


@pytest.mark.parametrize("case", HEADERS)
async def test_a_token_of_another_kind_is_refused(case: str, keys: Issuer) -> None:
    harness = Harness(keys)
    await harness.refuses(carried(assertion(keys, HEADERS[case])))
    await harness.refuses(carried(token(HEADERS[case], claims(), unsigned).encode()))


async def test_a_signature_of_another_key_is_refused(keys: Issuer) -> None:
    harness, other = Harness(keys), Issuer(rsa_key=1)
    await harness.refuses(carried(assertion(other)))
    await harness.refuses(
        carried(token(header(alg="RS256", kid="r1"), claims(), with_rsa(other.rsa, hashes.SHA256())).encode())
    )
    for junk in (b"", b"x", b"a.b.c", b"\xff.\xff.\xff", b"." * 9000):
        await harness.refuses(carried(junk))


async def test_an_assertion_ends(keys: Issuer) -> None:
    now = int(time.time())
    await Harness(keys).refuses(carried(assertion(keys, iat=now - 120, exp=now - 60)), code="token_expired")
    harness = Harness(keys, leeway=0.0)
    short = assertion(keys, exp=int(time.time()) + 1)
    await harness.get(carried(short))
    await asyncio.sleep(max(0.0, int(short and time.time()) + 2 - time.time()))
    await harness.refuses(carried(short), code="token_expired")


# ---- WebSocket


async def test_a_websocket_is_let_in_with_an_identity(keys: Issuer) -> None:
    harness = Harness(keys)
    server = Server(harness.middleware, "/socket", headers=[carried(assertion(keys))])  # type: ignore[arg-type]
    await server.expect("websocket.accept")
    assert harness.app.identity is not None and harness.app.identity.id == "u1"


async def test_a_websocket_without_an_assertion_is_answered_401(keys: Issuer) -> None:
    harness = Harness(keys)
    server = Server(harness.middleware, "/socket", headers=[])  # type: ignore[arg-type]
    start = await server.expect("websocket.http.response.start")
    assert start["status"] == 401 and not harness.app.scopes
    plain = Server(harness.middleware, "/socket", headers=[], extensions={})  # type: ignore[arg-type]
    assert (await plain.expect("websocket.close"))["code"] == 1008


# ---- construction


def test_it_imports_nothing_of_the_gateway_that_serves() -> None:
    names = "httpx sqlalchemy redis uvicorn yaml click starlette alembic gateway.settings gateway.gate"
    program = f"import sys, gateway.client; print([name for name in {names.split()} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("address", ["http://gateway:8000/.well-known/jwks.json", "ftp://x/", "", "gateway"])
def test_keys_are_fetched_over_a_trusted_transport_unless_configured_otherwise(address: str) -> None:
    with pytest.raises(ValueError, match="https"):
        IdentityMiddleware(App(), jwks_url=address, audience=AUDIENCE)
    assert IdentityMiddleware(App(), jwks_url=address, audience=AUDIENCE, insecure=True)


@pytest.mark.parametrize("algorithms", [[], ["HS256"], ["none"], ["ES256", "HS256"]])
def test_only_algorithms_with_a_public_key_are_taken(algorithms: list[str]) -> None:
    with pytest.raises(ValueError, match="algorithms"):
        AssertionVerifier("https://gw/jwks", audience=AUDIENCE, algorithms=algorithms)


async def test_algorithms_can_be_fewer(keys: Issuer) -> None:
    verifier = AssertionVerifier(keys.url + JWKS, audience=AUDIENCE, algorithms=["EdDSA"])
    with pytest.raises(Refusal):
        await verifier.verify(assertion(keys))
