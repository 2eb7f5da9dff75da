"""Assertions: content, audience and lifetime, and the difference from access tokens."""

from typing import Any

import pytest

from gateway.errors import Refusal
from gateway.identity.access_token import Tokens
from gateway.identity.assertions import Assertions
from gateway.identity.keys import KeyRing
from gateway.identity.principal import Principal, PrincipalFactory
from gateway.identity.signing_keys import ephemeral_key
from gateway.identity.user import Claims
from gateway.settings.model import AssertionSettings, IdentitySettings, TokensSettings
from tests.identity.stores import record
from tests.support.token_factory import claims_of, header_of

NOW = 1_800_000_000.25
SIGNED_IN = Claims("u1", "s1", 2e9, 1e9, "t1", "", auth_time=1_799_999_000.0, acr="aal1", amr=("pwd",))
API_KEY = Claims("u1", "key-1", 2e9, 1e9, "", "", frozenset(["user"]), kind="api_key")


class Time:
    """Wall clock time and tick time."""

    def __init__(self) -> None:
        self.now = 50.0

    def __call__(self) -> float:
        return NOW + self.now - 50.0


class Harness:
    def __init__(self, **settings: Any) -> None:
        self.time = Time()
        self.tokens = Tokens(KeyRing([ephemeral_key()]), TokensSettings(issuer="https://gw/"), clock=self.time)
        self.assertions = Assertions(self.tokens, AssertionSettings(**settings), self.time)
        self.factory = PrincipalFactory(IdentitySettings(), lambda roles: roles | {"implied"})

    def principal(self, **changes: Any) -> Principal:
        return self.factory.make(record(**changes))

    def assertion(self, principal: Principal, upstream: str = "orders", credential: Claims = SIGNED_IN) -> str:
        line = self.assertions.for_upstream(upstream)(principal, credential)
        assert line.endswith(b"\r\n") and line.count(b"\r\n") == 1
        name, _, value = line[:-2].decode("ascii").partition(": ")
        assert name == "X-Identity-Token"
        return value


def test_it_identifies_the_caller_to_one_upstream() -> None:
    harness = Harness()
    assertion = harness.assertion(harness.principal(roles=frozenset(["user", "admin"])))
    assert claims_of(assertion) == {
        "iss": "https://gw/",
        "aud": "orders",
        "sub": "u1",
        "email": "u1@example.com",
        "email_verified": False,
        "sid": "s1",
        "auth_time": 1_799_999_000,
        "acr": "aal1",
        "amr": ["pwd"],
        "roles": ["admin", "implied", "user"],
        "iat": 1_800_000_000,
        "exp": 1_800_000_061,
    }
    assert header_of(assertion) == {"alg": "ES256", "kid": harness.tokens.keys.signer.kid, "typ": "identity+jwt"}
    assert "email" not in claims_of(harness.assertion(harness.principal(email="")))


def test_it_is_signed_once_until_half_its_time_is_over() -> None:
    harness = Harness(ttl=60.0)
    principal = harness.principal()
    first = harness.assertion(principal)
    harness.time.now += 29.9
    assert harness.assertion(principal) == first
    harness.time.now += 0.1
    second = harness.assertion(principal)
    assert second != first and claims_of(second)["iat"] == 1_800_000_030
    assert harness.assertion(principal) == second


@pytest.mark.parametrize("ttl", [0.25, 1.0, 60.0])
def test_it_never_goes_out_expired(ttl: float) -> None:
    harness = Harness(ttl=ttl)
    principal = harness.principal()
    for _ in range(200):
        assert claims_of(harness.assertion(principal))["exp"] > harness.time()
        harness.time.now += ttl / 17


def test_each_upstream_and_each_principal_has_its_own() -> None:
    harness = Harness()
    ann, bob = harness.principal(), harness.factory.make(record("u2"))
    assertions = [harness.assertion(principal, name) for principal in (ann, bob) for name in ("orders", "billing")]
    assert [(claims_of(each)["sub"], claims_of(each)["aud"]) for each in assertions] == [
        ("u1", "orders"),
        ("u1", "billing"),
        ("u2", "orders"),
        ("u2", "billing"),
    ]


def test_each_session_and_each_sign_in_has_its_own() -> None:
    harness = Harness()
    principal = harness.principal(email_verified=True)
    confirmed = SIGNED_IN._replace(auth_time=1_799_999_900.0)
    assertions = [harness.assertion(principal, credential=each) for each in (SIGNED_IN, confirmed, SIGNED_IN)]
    assert [claims_of(each)["auth_time"] for each in assertions] == [1_799_999_000, 1_799_999_900, 1_799_999_000]
    assert assertions[0] == assertions[2] and claims_of(assertions[0])["email_verified"] is True
    by_key = claims_of(harness.assertion(principal, credential=API_KEY))
    assert by_key.keys() & {"sid", "auth_time", "acr", "amr"} == set(), "a key is no session"


def test_a_user_with_many_sessions_keeps_few_assertions() -> None:
    harness = Harness()
    principal = harness.principal()
    for number in range(500):
        harness.assertion(principal, credential=SIGNED_IN._replace(session=f"s{number}"))
    assert principal.assertions is not None and len(principal.assertions) <= 64


def test_a_principal_with_fewer_roles_is_asserted_with_fewer() -> None:
    harness = Harness()
    owner = harness.principal(roles=frozenset(["user", "admin"]))
    key = harness.factory.scoped_to(owner, Claims("u1", "key-1", 2e9, 1e9, "", "", frozenset(["user"])))
    assert claims_of(harness.assertion(owner))["roles"] == ["admin", "implied", "user"]
    assert claims_of(harness.assertion(key))["roles"] == ["implied", "user"]


def test_it_is_no_access_token_even_where_the_audience_is_the_gateways() -> None:
    harness = Harness()
    tokens = harness.tokens
    for upstream in ("orders", "gateway"):
        with pytest.raises(Refusal, match="token_invalid"):
            tokens.verify(harness.assertion(harness.principal(), upstream).encode())
    assert tokens.verify(tokens.issue(user_id="u1", session_id="s1", roles=()).token.encode())
