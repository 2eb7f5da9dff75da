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


class Rig:
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
    rig = Rig()
    said = rig.assertion(rig.principal(roles=frozenset(["user", "admin"])))
    assert claims_of(said) == {
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
    assert header_of(said) == {"alg": "ES256", "kid": rig.tokens.keys.signer.kid, "typ": "identity+jwt"}
    assert "email" not in claims_of(rig.assertion(rig.principal(email="")))


def test_it_is_signed_once_until_half_its_time_is_over() -> None:
    rig = Rig(ttl=60.0)
    principal = rig.principal()
    first = rig.assertion(principal)
    rig.time.now += 29.9
    assert rig.assertion(principal) == first
    rig.time.now += 0.1
    second = rig.assertion(principal)
    assert second != first and claims_of(second)["iat"] == 1_800_000_030
    assert rig.assertion(principal) == second


@pytest.mark.parametrize("ttl", [0.25, 1.0, 60.0])
def test_it_never_goes_out_expired(ttl: float) -> None:
    rig = Rig(ttl=ttl)
    principal = rig.principal()
    for _ in range(200):
        assert claims_of(rig.assertion(principal))["exp"] > rig.time()
        rig.time.now += ttl / 17


def test_each_upstream_and_each_principal_has_its_own() -> None:
    rig = Rig()
    ann, bob = rig.principal(), rig.factory.make(record("u2"))
    said = [rig.assertion(principal, name) for principal in (ann, bob) for name in ("orders", "billing")]
    assert [(claims_of(each)["sub"], claims_of(each)["aud"]) for each in said] == [
        ("u1", "orders"),
        ("u1", "billing"),
        ("u2", "orders"),
        ("u2", "billing"),
    ]


def test_each_session_and_each_sign_in_has_its_own() -> None:
    rig = Rig()
    principal = rig.principal(email_verified=True)
    confirmed = SIGNED_IN._replace(auth_time=1_799_999_900.0)
    said = [rig.assertion(principal, credential=each) for each in (SIGNED_IN, confirmed, SIGNED_IN)]
    assert [claims_of(each)["auth_time"] for each in said] == [1_799_999_000, 1_799_999_900, 1_799_999_000]
    assert said[0] == said[2] and claims_of(said[0])["email_verified"] is True
    by_key = claims_of(rig.assertion(principal, credential=API_KEY))
    assert by_key.keys() & {"sid", "auth_time", "acr", "amr"} == set(), "a key is no session"


def test_a_user_with_many_sessions_keeps_few_assertions() -> None:
    rig = Rig()
    principal = rig.principal()
    for number in range(500):
        rig.assertion(principal, credential=SIGNED_IN._replace(session=f"s{number}"))
    assert principal.assertions is not None and len(principal.assertions) <= 64


def test_a_principal_with_fewer_roles_is_asserted_with_fewer() -> None:
    rig = Rig()
    owner = rig.principal(roles=frozenset(["user", "admin"]))
    key = rig.factory.scoped_to(owner, Claims("u1", "key-1", 2e9, 1e9, "", "", frozenset(["user"])))
    assert claims_of(rig.assertion(owner))["roles"] == ["admin", "implied", "user"]
    assert claims_of(rig.assertion(key))["roles"] == ["implied", "user"]


def test_it_is_no_access_token_even_where_the_audience_is_the_gateways() -> None:
    rig = Rig()
    tokens = rig.tokens
    for upstream in ("orders", "gateway"):
        with pytest.raises(Refusal, match="token_invalid"):
            tokens.verify(rig.assertion(rig.principal(), upstream).encode())
    assert tokens.verify(tokens.issue(user_id="u1", session_id="s1", roles=()).token.encode())
