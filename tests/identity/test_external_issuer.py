"""Tokens of external issuers: valid ones are accepted, and similar ones refused."""

import hashlib
import hmac
import json
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gateway.errors import Refusal
from gateway.identity.external_issuer import ExternalIssuer
from gateway.identity.jwks import KeySet, read_key_set
from gateway.identity.keys import VerifyingKey
from gateway.settings.model import ExternalSettings
from tests.support.issuers import jwk_of
from tests.support.token_factory import Sign, decoded, encoded, shared_rsa_key, token, unsigned, with_curve, with_rsa

NOW = 1_800_000_000
RSA = shared_rsa_key(0)
CURVE = ec.generate_private_key(ec.SECP256R1())
STRANGER = shared_rsa_key(1)
SIGN = with_rsa(RSA, hashes.SHA256())


class Clock:
    def __init__(self) -> None:
        self.now = float(NOW)

    def __call__(self) -> float:
        return self.now


class Published:
    """A set of published keys. A fetch returns `more`; None means that no fetch is allowed."""

    def __init__(self, *jwks: dict[str, Any], more: list[dict[str, Any]] | None = None) -> None:
        self.publish(*jwks)
        self.more = more
        self.asked = 0
        self.listeners: list[Callable[[], None]] = []

    def publish(self, *jwks: dict[str, Any]) -> None:
        self.keys: KeySet = read_key_set(json.dumps({"keys": jwks}).encode(), ("RS256", "ES256"))

    def get(self, kid: str, algorithm: str) -> tuple[VerifyingKey, ...]:
        return self.keys.get(kid, algorithm)

    def holds(self, key: object) -> bool:
        return self.keys.holds(key)

    @property
    def may_be_asked(self) -> bool:
        return self.more is not None

    async def ask(self) -> None:
        self.asked += 1
        if self.more:
            self.publish(*self.more)
        self.more = None

    def on_loss(self, listener: Callable[[], None]) -> None:
        self.listeners.append(listener)

    def lose(self) -> None:
        self.publish()
        for listener in self.listeners:
            listener()


def settings(**changes: Any) -> ExternalSettings:
    values: dict[str, Any] = {
        "issuer": "https://idp/",
        "audience": "api",
        "name": "idp",
        "roles_claim": "realm_access.roles",
        "role_map": {"idp-admins": "admin", "idp-editors": "editor"},
        "algorithms": ("RS256", "ES256"),
    }
    return ExternalSettings(**(values | changes))


def published() -> Published:
    return Published(jwk_of(RSA, "r1"), jwk_of(CURVE, "c1"))


def make(
    keys: Published | None = None, clock: Clock | None = None, *, remembered: int = 100, **changes: Any
) -> ExternalIssuer:
    keys = keys or published()
    return ExternalIssuer(settings(**changes), keys, leeway=5.0, remembered=remembered, clock=clock or Clock())


def claims(**changes: Any) -> dict[str, Any]:
    good = {"iss": "https://idp/", "aud": "api", "sub": "bob", "iat": NOW, "exp": NOW + 600}
    return {name: value for name, value in (good | changes).items() if value is not None}


def header(**changes: Any) -> dict[str, Any]:
    good = {"alg": "RS256", "kid": "r1", "typ": "at+jwt"}
    return {name: value for name, value in (good | changes).items() if value is not None}


def signed(sign: Sign = SIGN, head: dict[str, Any] | None = None, **changes: Any) -> bytes:
    return token(header() if head is None else head, claims(**changes), sign).encode()


# ---- accepted tokens


@pytest.mark.parametrize(
    "credential",
    [
        signed(),
        signed(head=header(typ=None)),
        signed(head=header(typ="JWT")),
        signed(head=header(typ="jwt")),
        signed(head=header(typ="AT+JWT")),
        signed(head=header(typ="application/at+jwt")),
        signed(head=header(jku="http://evil/", x5u="http://evil/", jwk={"kty": "oct", "k": "AA"}, x5c=["AA"])),
        signed(with_curve(CURVE), header(alg="ES256", kid="c1")),
        signed(aud=["other", "api"]),
        signed(nbf=NOW),
        signed(typ="Bearer", token_use="access", scope="openid", azp="web", acr="1"),
        signed(iat=NOW - 0.25, nbf=NOW - 0.5, exp=float(NOW + 600)),
    ],
)
def test_tokens_of_common_identity_providers_are_accepted(credential: bytes) -> None:
    found = make().known(credential)
    assert found is not None and (found.subject, found.issuer) == ("idp|bob", "https://idp/")
    assert (found.expires_at, found.roles, found.session) == (NOW + 600, frozenset(), "")


@pytest.mark.parametrize("sub", ["bob", "auth0|5f7c8ec7c33c6c004bbafe82", "a b", "ä", "u1|", "|", "x" * 255])
def test_the_subject_can_equal_no_id_of_this_gateway(sub: str) -> None:
    found = make().known(signed(sub=sub))
    assert found is not None and found.subject == f"idp|{sub}" and found.is_external


SHOP = {"resource_access": {"com.example.shop": {"roles": ["idp-admins"]}}}
HASURA = {"https://hasura.io/jwt/claims": {"x-hasura-allowed-roles": ["idp-editors", "user"]}}
ROLES: list[tuple[str | tuple[str, ...] | None, Any, set[str]]] = [
    ("realm_access.roles", {"realm_access": {"roles": 1}}, set()),
    ("realm_access.roles", {"realm_access": {"roles": True}}, set()),
    ("realm_access.roles", {"realm_access": {"roles": ["idp-admins", 1, None, True, ["x"], {}]}}, {"admin"}),
    # Zitadel: a mapping of each role to the organisations that grant it.
    ("urn:zitadel:roles", {"urn:zitadel:roles": {"idp-editors": {"1": "a"}, "x": {}}}, {"editor"}),
    (("resource_access", "com.example.shop", "roles"), SHOP, {"admin"}),
    (("https://hasura.io/jwt/claims", "x-hasura-allowed-roles"), HASURA, {"editor"}),
    (("https://x.example/roles",), {"https://x.example/roles": ["idp-editors"]}, {"editor"}),
    (("realm_access.roles",), {"realm_access": {"roles": ["idp-admins"]}}, set()),
    ("resource_access.com.example.shop.roles", SHOP, set()),
    ("realm_access.roles", {"realm_access": {"roles": ["idp-admins", "x"]}}, {"admin"}),
    ("realm_access.roles", {"realm_access": {"roles": "idp-admins idp-editors"}}, {"admin", "editor"}),
    ("realm_access.roles", {"realm_access": {"roles": []}}, set()),
    ("realm_access.roles", {"realm_access": {"roles": None}}, set()),
    ("realm_access.roles", {"realm_access": {}}, set()),
    ("realm_access.roles", {"realm_access": "roles"}, set()),
    ("realm_access.roles", {"realm_access": [{"roles": ["idp-admins"]}]}, set()),
    ("realm_access.roles", {}, set()),
    ("realm_access.roles", {"realm_access": {"roles": ["admin", "editor", "IDP-ADMINS"]}}, set()),
    ("groups", {"groups": ["idp-editors"]}, {"editor"}),
    ("https://x.example/roles", {"https://x.example/roles": ["idp-editors"]}, {"editor"}),
    ("scope", {"scope": "openid idp-editors"}, {"editor"}),
    ("scope", {"scope": "idp-admins\tidp-editors,idp-editors"}, set()),
    (None, {"roles": ["idp-admins"], "groups": ["idp-admins"]}, set()),
]


@pytest.mark.parametrize(("path", "own_claims", "mapped"), ROLES)
def test_roles_are_those_that_the_map_names(
    path: str | tuple[str, ...] | None, own_claims: dict[str, Any], mapped: set[str]
) -> None:
    found = make(roles_claim=path).known(signed(**own_claims))
    assert found is not None and found.roles == frozenset(mapped)


@pytest.mark.parametrize(
    ("own_claims", "email"),
    [
        ({}, ""),
        ({"email": "b@idp"}, "b@idp"),
        ({"email": "b@idp", "email_verified": True}, "b@idp"),
        ({"email": "b@idp", "email_verified": "true"}, "b@idp"),
        ({"email": "b@idp", "email_verified": False}, ""),
        ({"email": "b@idp", "email_verified": "false"}, ""),
        ({"email": "b@idp", "email_verified": 0}, ""),
    ],
)
def test_an_address_that_its_issuer_has_not_verified_is_none(own_claims: dict[str, Any], email: str) -> None:
    found = make().known(signed(**own_claims))
    assert found is not None and found.email == email


@pytest.mark.parametrize("extra", [{"at_hash": "x"}, {"nonce": "x"}, {"at_hash": "x", "nonce": "y"}])
def test_dex_puts_marks_of_an_id_token_into_access_tokens(extra: dict[str, Any]) -> None:
    found = make(id_tokens=True).known(signed(**extra))
    assert found is not None and found.subject == "idp|bob"
    others: list[dict[str, Any]] = [{"c_hash": "x"}, {"typ": "ID"}, {"events": {}}]
    for other in others:
        with pytest.raises(Refusal, match="token_invalid"):
            make(id_tokens=True).known(signed(**extra, **other))


@pytest.mark.parametrize(("aud", "accepted"), [("api", True), ("web", True), (["x", "web"], True), ("x", False)])
def test_one_of_several_audiences_is_enough(aud: Any, accepted: bool) -> None:
    issuer = make(audience=("api", "web"))
    if accepted:
        assert issuer.known(signed(aud=aud)) is not None
    else:
        with pytest.raises(Refusal, match="token_invalid"):
            issuer.known(signed(aud=aud))


def test_each_key_of_a_repeated_id_is_tried() -> None:
    keys = Published(jwk_of(STRANGER, "r1"), jwk_of(RSA, "r1"))
    assert make(keys).known(signed()) is not None
    assert make(keys).known(signed(with_rsa(STRANGER, hashes.SHA256()))) is not None
    with pytest.raises(Refusal, match="token_invalid"):
        make(keys).known(signed(with_rsa(shared_rsa_key(2), hashes.SHA256())))


@pytest.mark.parametrize("published_as", ["Ed25519", "EdDSA", None])
@pytest.mark.parametrize("named", ["Ed25519", "EdDSA"])
def test_ed25519_and_eddsa_are_one_algorithm(published_as: str | None, named: str) -> None:
    private = ed25519.Ed25519PrivateKey.generate()
    point = encoded(private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)).decode()
    jwk = {"kty": "OKP", "crv": "Ed25519", "x": point, "kid": "e1"} | ({"alg": published_as} if published_as else {})
    keys = Published()
    keys.keys = read_key_set(json.dumps({"keys": [jwk]}).encode(), ("EdDSA",))
    issuer = make(keys, algorithms=("EdDSA",))
    assert issuer.known(signed(private.sign, header(alg=named, kid="e1"))) is not None


# ---- refused tokens


def pem(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def with_hmac(secret: bytes) -> Sign:
    return lambda message: hmac.new(secret, message, hashlib.sha256).digest()


def with_pss(message: bytes) -> bytes:
    return RSA.sign(message, padding.PSS(padding.MGF1(hashes.SHA256()), 32), hashes.SHA256())


JWKS_TEXT = json.dumps({"keys": [jwk_of(RSA, "r1")]}).encode()
FORGED: dict[str, tuple[dict[str, Any], Sign]] = {
    "a stranger's key": (header(), with_rsa(STRANGER, hashes.SHA256())),
    "unsigned": (header(), unsigned),
    "alg none": (header(alg="none"), unsigned),
    "alg None": (header(alg="None"), unsigned),
    "alg empty": (header(alg=""), unsigned),
    "no alg": (header(alg=None), SIGN),
    "alg a number": (header() | {"alg": 256}, SIGN),
    "alg a list": (header() | {"alg": ["RS256"]}, SIGN),
    "HS256 with the PEM": (header(alg="HS256"), with_hmac(pem(RSA))),
    "HS256 with the stripped PEM": (header(alg="HS256"), with_hmac(pem(RSA).strip())),
    "HS256 with the JWK": (header(alg="HS256"), with_hmac(json.dumps(jwk_of(RSA, "r1")).encode())),
    "HS256 with the JWKS": (header(alg="HS256"), with_hmac(JWKS_TEXT)),
    "HS256 with nothing": (header(alg="HS256"), with_hmac(b"")),
    "RS512 by a key for RS256": (header(alg="RS512"), with_rsa(RSA, hashes.SHA512())),
    "RS512 said to be RS256": (header(), with_rsa(RSA, hashes.SHA512())),
    "PS256 by a key for RS256": (header(alg="PS256"), with_pss),
    "PS256 said to be RS256": (header(), with_pss),
    "the other key's id": (header(kid="c1"), SIGN),
    "the other key's id and algorithm": (header(kid="c1", alg="ES256"), SIGN),
    "the other key's algorithm": (header(alg="ES256"), with_curve(CURVE)),
    "lower case": (header(alg="rs256"), SIGN),
    "an unknown kid": (header(kid="r2"), SIGN),
    "a kid that is a path": (header(kid="../../dev/null"), unsigned),
    "a kid that is an address": (header(kid="http://evil/jwks"), SIGN),
    "a kid with NUL": (header(kid="r1\0"), SIGN),
    "a kid in other case": (header(kid="R1"), SIGN),
    "no kid": (header(kid=None), SIGN),
    "a kid that is no text": (header() | {"kid": 1}, SIGN),
    "a key of its own": (header(kid="x", jwk=jwk_of(STRANGER, "x")), with_rsa(STRANGER, hashes.SHA256())),
    "a key elsewhere": (header(kid="x", jku="http://127.0.0.1:1/"), with_rsa(STRANGER, hashes.SHA256())),
    "crit": (header(crit=["x"], x=1), SIGN),
    "crit empty": (header(crit=[]), SIGN),
    "b64": (header(b64=False), SIGN),
    "an ID token": (header(typ="id+jwt"), SIGN),
    "a logout token": (header(typ="logout+jwt"), SIGN),
    "an event": (header(typ="secevent+jwt"), SIGN),
    "a DPoP proof": (header(typ="dpop+jwt"), SIGN),
    "an assertion of ours": (header(typ="identity+jwt"), SIGN),
    "typ empty": (header(typ=""), SIGN),
    "typ null": (header() | {"typ": None}, SIGN),
    "typ a list": (header() | {"typ": ["JWT"]}, SIGN),
}


@pytest.mark.parametrize("case", FORGED)
def test_a_token_that_this_issuer_did_not_sign_so_is_refused(case: str) -> None:
    head, sign = FORGED[case]
    with pytest.raises(Refusal, match="token_invalid"):
        make().known(signed(sign, head))


WRONG: dict[str, dict[str, Any]] = {
    "another issuer": {"iss": "https://idp"},
    "no issuer": {"iss": None},
    "an issuer in a list": {"iss": ["https://idp/"]},
    "another audience": {"aud": "web"},
    "an audience that begins alike": {"aud": "api2"},
    "audiences in a text": {"aud": "api web"},
    "no audience": {"aud": None},
    "an empty audience": {"aud": []},
    "an audience that is no text": {"aud": ["api", 1]},
    "no subject": {"sub": None},
    "an empty subject": {"sub": ""},
    "a subject that is no text": {"sub": 7},
    "a subject too long": {"sub": "x" * 256},
    "a subject with a line break": {"sub": "bob\r\nX-User-Roles: admin"},
    "a subject with half a character": {"sub": "\ud800"},
    "no end": {"exp": None},
    "an end in text": {"exp": str(NOW + 600)},
    "an end without end": {"exp": float("inf")},
    "an end that is no number": {"exp": float("nan")},
    "an end that is true": {"exp": True},
    "an end beyond time": {"exp": 10**15},
    "no beginning": {"iat": None},
    "a beginning in text": {"iat": str(NOW)},
    "issued in the future": {"iat": NOW + 60},
    "not yet": {"nbf": NOW + 60},
    "not yet, in text": {"nbf": str(NOW)},
    "an id that is no text": {"jti": 1},
    "an address that is no text": {"email": ["b@idp"]},
    "an address with a line break": {"email": "b@idp\r\nX-User-Roles: admin"},
    "an ID token by its hash": {"at_hash": "x"},
    "an ID token by its nonce": {"nonce": "x"},
    "an ID token by its code's hash": {"c_hash": "x"},
    "an ID token of Keycloak": {"typ": "ID"},
    "a refresh token of Keycloak": {"typ": "Refresh"},
    "an offline token of Keycloak": {"typ": "Offline"},
    "a kind that is no text": {"typ": ["Bearer"]},
    "an ID token of Cognito": {"token_use": "id"},
    "a logout token": {"events": {"http://schemas.openid.net/event/backchannel-logout": {}}},
    "bound to a certificate": {"cnf": {"x5t#S256": "x"}},
    "bound to a key": {"cnf": {"jkt": "x"}},
}


@pytest.mark.parametrize("case", WRONG)
def test_a_token_with_other_claims_is_refused(case: str) -> None:
    with pytest.raises(Refusal, match="token_invalid") as refusal:
        make().known(signed(**WRONG[case]))
    assert refusal.value.presented


@pytest.mark.parametrize("text", [b"[]", b"null", b"1", b'{"iss":"https://idp/","iss":"https://idp/"}', b"\xff", b""])
def test_claims_that_are_no_plain_object_are_refused(text: bytes) -> None:
    with pytest.raises(Refusal, match="token_invalid"):
        make().known(token(header(), text, SIGN).encode())


def test_every_other_spelling_of_a_good_token_is_refused() -> None:
    good = signed()
    issuer = make()
    assert issuer.known(good)
    first, second, third = good.split(b".")
    for other in (good + b"=", good + b".", b"." + good, first + b"=." + second + b"." + third, good[:-1], good + b"A"):
        with pytest.raises(Refusal, match="token_invalid"):
            issuer.known(other)
    for place in range(0, len(third), 37):
        flipped = bytearray(decoded(third))
        flipped[place % len(flipped)] ^= 1
        with pytest.raises(Refusal, match="token_invalid"):
            issuer.known(b".".join((first, second, encoded(bytes(flipped)))))


# ---- times


def test_a_remembered_token_ends_at_its_time() -> None:
    clock = Clock()
    issuer = make(clock=clock)
    credential = signed()
    assert issuer.remembered(credential) is None
    assert issuer.known(credential) is issuer.remembered(credential)
    clock.now = NOW + 604.9
    found = issuer.known(credential)
    assert found is not None and issuer.ended(found) is None
    clock.now = NOW + 605
    ended = issuer.ended(found)
    assert ended is not None and ended.code == "token_expired"
    for ask in (issuer.known, issuer.remembered):
        with pytest.raises(Refusal, match="token_expired"):
            ask(credential)
    with pytest.raises(Refusal, match="token_expired"):
        make(clock=clock).known(credential)


# ---- unknown keys


async def test_an_unknown_key_is_asked_for_and_then_known() -> None:
    keys = Published(jwk_of(CURVE, "c1"), more=[jwk_of(RSA, "r1")])
    issuer = make(keys)
    assert issuer.known(signed()) is None
    found = await issuer.ask(signed())
    assert found.subject == "idp|bob" and issuer.known(signed()) == found and keys.asked == 1


async def test_a_key_that_is_still_unknown_is_refused() -> None:
    keys = Published(more=[jwk_of(STRANGER, "r1")])
    issuer = make(keys)
    assert issuer.known(signed()) is None
    with pytest.raises(Refusal, match="token_invalid"):
        await issuer.ask(signed())
    with pytest.raises(Refusal, match="token_invalid"):
        issuer.known(signed(head=header(kid="r2")))
    with pytest.raises(Refusal, match="token_invalid"):
        await issuer.ask(signed(head=header(kid="r2")))
    assert keys.asked == 1


@pytest.mark.parametrize(
    "credential",
    [
        *(signed(head=header(kid="r2"), **changes) for changes in WRONG.values()),
        signed(head=header(kid="r2"), exp=NOW - 60),
        signed(head=header(kid="r2", alg="HS256")),
        signed(head=header(kid="r2", typ="id+jwt")),
        signed(head=header(kid="r2", crit=["x"])),
    ],
)
def test_a_token_that_would_be_refused_anyway_causes_no_fetch(credential: bytes) -> None:
    with pytest.raises(Refusal):
        make(Published(more=[jwk_of(RSA, "r2")])).known(credential)


def test_tokens_of_a_removed_key_are_refused_from_then_on() -> None:
    keys, clock = published(), Clock()
    issuer = make(keys, clock)
    found = issuer.known(signed())
    assert found is not None and issuer.ended(found) is None
    keys.lose()
    ended = issuer.ended(found)
    assert ended is not None and ended.code == "token_invalid"
    assert issuer.remembered(signed()) is None
    with pytest.raises(Refusal, match="token_invalid"):
        issuer.known(signed())


def test_a_flood_of_bad_tokens_does_not_push_out_good_ones() -> None:
    issuer = make(remembered=10)
    assert issuer.known(signed())
    for number in range(50):
        with pytest.raises(Refusal):
            issuer.known(signed(unsigned, sub=f"u{number}"))
    assert issuer.remembered(signed())


def test_cached_tokens_are_bounded() -> None:
    issuer = make(remembered=10)
    tokens = [signed(with_curve(CURVE), header(alg="ES256", kid="c1"), sub=f"u{number}") for number in range(40)]
    for credential in tokens:
        assert issuer.known(credential)
    assert sum(issuer.remembered(credential) is not None for credential in tokens) <= 10


def test_two_issuers_remember_apart() -> None:
    """CVE-2026-33496: the same text with the same kid is a different token at another issuer."""
    one, other = make(), make(issuer="https://other/", name="other")
    assert one.known(signed())
    assert other.remembered(signed()) is None
    with pytest.raises(Refusal, match="token_invalid"):
        other.known(signed())
