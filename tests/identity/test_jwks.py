"""Published key sets: which keys can verify tokens, with which algorithms."""

import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from gateway.identity.jwks import MAX_KEYS, MAX_SAME, KeySet, UnusableKeySet, read_key_set
from tests.support.issuers import jwk_of, number
from tests.support.token_factory import encoded, shared_rsa_key, with_curve

RSA = shared_rsa_key(0)
SHORT = rsa.generate_private_key(65537, 1024)
CURVE = ec.generate_private_key(ec.SECP256R1())
EDWARDS = ed25519.Ed25519PrivateKey.generate()
ALL = ("RS256", "RS512", "PS256", "ES256", "ES384", "EdDSA")


def read(*jwks: Any, algorithms: tuple[str, ...] = ALL) -> KeySet:
    return read_key_set(json.dumps({"keys": jwks}).encode(), algorithms)


def okp(**members: Any) -> dict[str, Any]:
    x = EDWARDS.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    return {"kty": "OKP", "crv": "Ed25519", "x": encoded(x).decode(), "kid": "e1"} | members


def test_a_key_is_for_the_one_algorithm_that_it_names() -> None:
    keys = read(jwk_of(RSA, "r1"), jwk_of(CURVE, "c1"), okp(alg="EdDSA"))
    found = {(kid, name) for kid in ("r1", "c1", "e1") for name in ALL if keys.get(kid, name)}
    assert found == {("r1", "RS256"), ("c1", "ES256"), ("e1", "EdDSA")}


def test_a_key_that_names_none_is_for_those_of_its_type_that_are_accepted() -> None:
    keys = read(jwk_of(RSA, "k", alg=None), jwk_of(CURVE, "c", alg=None), okp())
    assert [name for name in ALL if keys.get("k", name)] == ["RS256", "RS512", "PS256"]
    assert [name for name in ALL if keys.get("c", name)] == ["ES256"]
    assert [name for name in ALL if keys.get("e1", name)] == ["EdDSA"]
    assert len(read(jwk_of(RSA, "k", alg=None), algorithms=("RS256",))) == 1


def test_a_key_verifies_signatures_of_its_private_half() -> None:
    (key,) = read(jwk_of(CURVE, "c1")).get("c1", "ES256")
    assert key.verifies(b"data", with_curve(CURVE)(b"data"))
    assert not key.verifies(b"other", with_curve(CURVE)(b"data"))


PRIVATE = number(RSA.private_numbers().d)
UNUSABLE: dict[str, Any] = {
    "for encryption": jwk_of(RSA, "k", use="enc"),
    "use of another type": jwk_of(RSA, "k", use=["sig"]),
    "use null": jwk_of(RSA, "k") | {"use": None},
    "operations without verify": jwk_of(RSA, "k", key_ops=["sign"]),
    "no operations": jwk_of(RSA, "k", key_ops=[]),
    "operations that are no list": jwk_of(RSA, "k", key_ops="verify"),
    "an algorithm that is not accepted": jwk_of(RSA, "k", alg="RS384"),
    "an algorithm of encryption": jwk_of(RSA, "k", alg="RSA-OAEP"),
    "an algorithm of another type of key": jwk_of(RSA, "k", alg="ES256"),
    "alg none": jwk_of(RSA, "k", alg="none"),
    "alg null": jwk_of(RSA, "k") | {"alg": None},
    "alg a list": jwk_of(RSA, "k", alg=["RS256"]),
    "HS256 with a public key": jwk_of(RSA, "k", alg="HS256"),
    "too short": jwk_of(SHORT, "k"),
    "a secret": {"kty": "oct", "k": encoded(b"s" * 64).decode(), "kid": "k", "alg": "HS256"},
    "an empty secret": {"kty": "oct", "k": "", "kid": "k"},
    "a private key": jwk_of(RSA, "k", d=PRIVATE),
    "without kid": jwk_of(RSA, None),
    "an empty kid": jwk_of(RSA, ""),
    "a kid that is no text": jwk_of(RSA, "k") | {"kid": 7},
    "without type": jwk_of(RSA, "k", kty=None),
    "an unknown type": jwk_of(RSA, "k", kty="LMS"),
    "a type that is no text": jwk_of(RSA, "k") | {"kty": ["RSA"]},
    "without modulus": jwk_of(RSA, "k", n=None),
    "a modulus that is no text": jwk_of(RSA, "k") | {"n": 5},
    "no base64": jwk_of(RSA, "k", n="!!!"),
    "an even exponent": jwk_of(RSA, "k", e=number(65536)),
    "an exponent of one": jwk_of(RSA, "k", e=number(1)),
    "a point off the curve": jwk_of(CURVE, "k", y=encoded(b"\1" * 32).decode()),
    "a point too short": jwk_of(CURVE, "k", x="AA"),
    "another curve": jwk_of(CURVE, "k", crv="secp256k1"),
    "an unknown curve": jwk_of(CURVE, "k", crv="P-999"),
    "X25519": okp(crv="X25519", kid="k"),
    "an Edwards key too short": okp(x="AA", kid="k"),
    "no object": ["k"],
    "null": None,
    "a number": 1,
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_other_keys_of_a_set_are_ignored(case: str) -> None:
    keys = read(UNUSABLE[case], jwk_of(CURVE, "c1"))
    assert len(keys) == 1 and keys.get("c1", "ES256")
    assert not any(keys.get("k", name) for name in (*ALL, "HS256", "RS384", "none"))


def test_urls_in_a_key_are_not_followed() -> None:
    elsewhere = dict.fromkeys(("x5u", "jku"), "http://127.0.0.1:1/") | {"x5c": ["AAAA"], "x5t": "AAAA"}
    assert len(read(jwk_of(RSA, "k", **elsewhere))) == 1


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b'{"keys": {}}',
        b'{"keys": null}',
        b'{"keys": [], "keys": []}',
        b'{"keys": [NaN]}',
        b"\xff\xfe{\0}\0",
        b"<html></html>",
        b"[" * 100_000,
    ],
)
def test_a_text_that_is_no_key_set_is_reported(text: bytes) -> None:
    with pytest.raises(UnusableKeySet):
        read_key_set(text, ALL)


def test_keys_of_one_id_all_count_up_to_a_limit() -> None:
    others = [ec.generate_private_key(ec.SECP256R1()) for _ in range(MAX_SAME + 2)]
    keys = read(jwk_of(CURVE, "c1"), *(jwk_of(other, "c1") for other in others), jwk_of(RSA, "c1"))
    found = keys.get("c1", "ES256")
    assert len(found) == MAX_SAME
    assert found[0].verifies(b"data", with_curve(CURVE)(b"data"))
    assert len(keys.get("c1", "RS256")) == 1


def test_a_byte_order_mark_before_a_set_is_ignored() -> None:
    text = json.dumps({"keys": [jwk_of(CURVE, "c1")]}).encode("utf-8-sig")
    assert len(read_key_set(text, ALL)) == 1


def test_a_set_is_read_as_far_as_any_issuer_needs() -> None:
    many = [jwk_of(CURVE, f"c{number}") for number in range(MAX_KEYS + 50)]
    assert len(read(*many)) == MAX_KEYS


def test_a_key_is_lost_when_it_is_gone_or_another_one() -> None:
    both, other = read(jwk_of(RSA, "r1"), jwk_of(CURVE, "c1")), ec.generate_private_key(ec.SECP256R1())
    for earlier in (both, read(jwk_of(RSA, "r1")), KeySet()):
        assert not both.lacks_any_of(earlier)
    assert read(jwk_of(RSA, "r1")).lacks_any_of(both)
    assert read(jwk_of(RSA, "r1"), jwk_of(other, "c1")).lacks_any_of(both)


def test_a_key_that_is_still_published_stays_the_very_same() -> None:
    before, other = read(jwk_of(RSA, "r1"), jwk_of(CURVE, "c1")), ec.generate_private_key(ec.SECP256R1())
    (kept,), (replaced,) = before.get("r1", "RS256"), before.get("c1", "ES256")
    after = read(jwk_of(other, "c1"), jwk_of(RSA, "r1")).after(before)
    assert after.get("r1", "RS256")[0] is kept and after.holds(kept)
    assert len(after) == 2 and not after.holds(replaced) and not after.holds(None)


@given(
    st.dictionaries(
        st.sampled_from(["kty", "crv", "x", "y", "n", "e", "kid", "alg", "use", "key_ops", "d", "k"]),
        st.none()
        | st.booleans()
        | st.integers()
        | st.text(max_size=60)
        | st.lists(st.text(max_size=5), max_size=3)
        | st.sampled_from(
            ["RSA", "EC", "OKP", "P-256", "Ed25519", "AQAB", "ES256", "sig", encoded(b"\1" * 32).decode()]
        ),
    )
)
def test_no_content_of_a_key_raises_an_error(jwk: dict[str, Any]) -> None:
    assert len(read(jwk, jwk_of(CURVE, "c-good"))) >= 1
