"""Which keys fit which algorithms, and the public part of a key."""

import base64
import datetime
import hashlib
import json
import re
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from gateway.identity.keys import ALGORITHMS, KeyRing, SigningKey, UnusableKey, VerifyingKey
from tests.support.token_factory import shared_rsa_key

SECRET = b"0123456789abcdef" * 4
P256 = ec.generate_private_key(ec.SECP256R1())
P384 = ec.generate_private_key(ec.SECP384R1())
P521 = ec.generate_private_key(ec.SECP521R1())
K256 = ec.generate_private_key(ec.SECP256K1())
ED25519 = ed25519.Ed25519PrivateKey.generate()
RSA = shared_rsa_key(0)
SMALL_RSA = rsa.generate_private_key(65537, 1024)
GOOD: dict[str, Any] = {
    "HS256": SECRET,
    "HS384": SECRET,
    "HS512": SECRET,
    **dict.fromkeys(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"), RSA),
    "ES256": P256,
    "ES384": P384,
    "ES512": P521,
    "EdDSA": ED25519,
}


def pem(
    key: Any, encryption: KeySerializationEncryption | None = None, form: PrivateFormat = PrivateFormat.PKCS8
) -> str:
    return str(key.private_bytes(Encoding.PEM, form, encryption or NoEncryption()).decode())


def public_pem(key: Any) -> str:
    return str(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode())


def test_every_algorithm_has_a_key_in_these_tests() -> None:
    assert set(GOOD) == set(ALGORITHMS)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_key_verifies_only_its_own_signatures(algorithm: str) -> None:
    key, other = SigningKey(GOOD[algorithm], algorithm, "k1"), SigningKey(SECRET[::-1], "HS256", "k2")
    signature = key.sign(b"message")
    assert key.verifies(b"message", signature)
    assert not key.verifies(b"messagf", signature)
    assert not key.verifies(b"message", signature[:-1])
    assert not key.verifies(b"message", signature + b"\0")
    assert not key.verifies(b"message", b"")
    assert not key.verifies(b"message", other.sign(b"message"))


@pytest.mark.parametrize("signing", ALGORITHMS)
def test_a_signature_of_one_algorithm_is_none_of_another_with_the_same_key(signing: str) -> None:
    signature = SigningKey(GOOD[signing], signing, "k").sign(b"message")
    for algorithm in ALGORITHMS:
        if algorithm != signing and GOOD[algorithm] is GOOD[signing]:
            assert not SigningKey(GOOD[algorithm], algorithm, "k").verifies(b"message", signature)


@pytest.mark.parametrize(
    ("key", "algorithm", "why"),
    [
        (P384, "ES256", "an elliptic curve key on P-256 for ES256, found"),
        (K256, "ES256", "an elliptic curve key on P-256 for ES256, found"),
        (RSA, "ES256", "an elliptic curve key on P-256 for ES256, found"),
        (SECRET, "ES256", "an elliptic curve key on P-256 for ES256, found"),
        (P256, "ES384", "on P-384 for ES384, found an elliptic curve key on P-256 (algorithm: ES256, or"),
        (P256, "ES512", "an elliptic curve key on P-521 for ES512, found an elliptic curve key on P-256"),
        (P256, "RS256", "found an elliptic curve key on P-256 (algorithm: ES256, or another key)"),
        (SECRET, "PS256", "an RSA key of at least 2048 bits for PS256, found a secret of 64 bytes"),
        (SMALL_RSA, "RS256", "at least 2048 bits for RS256, found an RSA key of 1024 bits"),
        (SMALL_RSA, "PS512", "at least 2048 bits for PS512, found an RSA key of 1024 bits"),
        (P256, "EdDSA", "an Ed25519 key for EdDSA, found"),
        (SECRET, "EdDSA", "an Ed25519 key for EdDSA, found"),
        (ED25519, "RS256", "found an Ed25519 key (algorithm: EdDSA, or another key)"),
        (RSA, "ES512", "an RSA key of 2048 bits (algorithm: RS256 or RS384 or RS512 or PS256 or PS384 or PS512, or"),
        (P256, "HS256", "a secret of at least 32 bytes for HS256, found"),
        (b"", "HS256", "at least 32 bytes for HS256, found a secret of 0 bytes"),
        (SECRET[:31], "HS256", "at least 32 bytes for HS256, found a secret of 31 bytes"),
        (SECRET[:47], "HS384", "at least 48 bytes for HS384, found a secret of 47 bytes"),
        (SECRET[:63], "HS512", "at least 64 bytes for HS512, found a secret of 63 bytes"),
        (P256, "none", "unknown algorithm 'none' (HS256, "),
        (P256, "es256", "unknown algorithm 'es256' (HS256, "),
        (SECRET, "", "unknown algorithm '' (HS256, "),
    ],
)
def test_a_key_of_another_kind_or_too_weak_is_refused(key: Any, algorithm: str, why: str) -> None:
    with pytest.raises(UnusableKey, match=re.escape(why)):
        SigningKey(key, algorithm, "k")


def public_texts() -> list[bytes]:
    """Texts of public keys that could be mistaken for an HMAC secret."""
    jwk = {"kty": "EC", "crv": "P-256", "x": "a" * 43, "y": "b" * 43}
    certificate = _certificate()
    return [
        public_pem(P256).encode(),
        public_pem(RSA).encode().strip(),
        b"  \n" + public_pem(RSA).encode(),
        pem(RSA).encode(),
        RSA.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        RSA.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH),
        P256.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH),
        certificate.public_bytes(Encoding.PEM),
        certificate.public_bytes(Encoding.DER),
        json.dumps(jwk).encode(),
        json.dumps({"keys": [jwk]}, indent=2).encode(),
        json.dumps([{"nested": {"deeper": [jwk]}}]).encode(),
        json.dumps({"kty": "oct", "k": ""} | {"padding": "x" * 40}).encode(),
    ]


def _certificate() -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    start = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    builder = x509.CertificateBuilder(name, name, P256.public_key(), 1, start, start + datetime.timedelta(days=1))
    return builder.sign(P256, hashes.SHA256())


PUBLIC_TEXTS = public_texts()


@pytest.mark.parametrize("secret", PUBLIC_TEXTS, ids=range(len(PUBLIC_TEXTS)))  # the same ids in every process
def test_cve_2022_29217_and_2026_48526_the_text_of_a_public_key_is_no_secret(secret: bytes) -> None:
    with pytest.raises(UnusableKey, match="must be a random secret"):
        SigningKey(secret, "HS256", "k")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "must be a private key in PEM form, found something else"),
        ("garbage", "must be a private key in PEM form, found something else"),
        (
            "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----",
            "must be a private key in PEM form, found something else",
        ),
        (pem(P256)[:-40], "must be a private key in PEM form, found something else"),
        ("\udcff", "must be a private key in PEM form, found something else"),
        (public_pem(P256), "must be a private key in PEM form, found a public one"),
        (pem(P256, BestAvailableEncryption(b"secret")), "encrypted"),
        (pem(dsa.generate_private_key(1024)), "RSA or Ed25519 key, found DSAPrivateKey"),
        (pem(ed448.Ed448PrivateKey.generate()), "RSA or Ed25519 key, found Ed448PrivateKey"),
    ],
)
def test_a_text_that_is_no_private_key_is_refused_in_words(text: str, why: str) -> None:
    with pytest.raises(UnusableKey, match=why) as refused:
        SigningKey.from_pem(text, "ES256", "k")
    assert not text.strip() or text.strip() not in str(refused.value)


@pytest.mark.parametrize("form", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL])
def test_private_keys_are_read_in_both_common_forms_with_space_around_them(form: PrivateFormat) -> None:
    read = SigningKey.from_pem("\n " + pem(P256, form=form) + "\n\n", "ES256", "k")
    assert read.jwk() == SigningKey(P256, "ES256", "k").jwk()


def test_a_key_can_be_read_from_the_file_that_openssl_ecparam_writes() -> None:
    parameters = "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"
    written = parameters + pem(P256, form=PrivateFormat.TraditionalOpenSSL)
    assert SigningKey.from_pem(written, "ES256", "k").jwk() == SigningKey(P256, "ES256", "k").jwk()


def test_a_secret_is_the_bytes_of_its_text() -> None:
    text = "geheim-ñandú-" * 5
    assert SigningKey.from_secret(text, "HS256", "k").sign(b"m") == SigningKey(text.encode(), "HS256", "k").sign(b"m")


@pytest.mark.parametrize("algorithm", [name for name in ALGORITHMS if not name.startswith("HS")])
def test_the_public_key_is_shown_with_its_use_and_without_anything_private(algorithm: str) -> None:
    jwk = SigningKey(GOOD[algorithm], algorithm, "k1").jwk()
    assert jwk is not None
    assert (jwk["use"], jwk["alg"], jwk["kid"]) == ("sig", algorithm, "k1")
    assert set(jwk) - {"use", "alg", "kid"} in ({"kty", "n", "e"}, {"kty", "crv", "x", "y"}, {"kty", "crv", "x"})


def test_a_ring_shows_its_public_keys_in_order_and_no_secret() -> None:
    keys = [SigningKey(SECRET, "HS256", "k0"), SigningKey(P256, "ES256", "k1"), SigningKey(RSA, "RS256", "k2")]
    ring = KeyRing(keys)
    assert ring.signer is keys[0]
    assert [jwk["kid"] for jwk in ring.jwks()["keys"]] == ["k1", "k2"]
    assert base64.urlsafe_b64encode(SECRET).rstrip(b"=").decode() not in json.dumps(ring.jwks())
    assert [ring.get(kid) for kid in ("k2", "k3", "")] == [keys[2], None, None]


def test_two_keys_with_one_id_are_refused() -> None:
    with pytest.raises(UnusableKey, match="same id"):
        KeyRing([SigningKey(P256, "ES256", "k"), SigningKey(RSA, "RS256", "k")])


def test_a_key_without_an_id_is_called_by_its_thumbprint() -> None:
    # The example of RFC 7638 3.1.
    modulus = (
        "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3"
        "oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdA"
        "ZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-"
        "kEgU8awapJzKnqDKgw"
    )
    number = int.from_bytes(base64.urlsafe_b64decode(modulus + "=="), "big")
    key = VerifyingKey(rsa.RSAPublicNumbers(65537, number).public_key(), "RS256")
    assert key.kid == "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"


@pytest.mark.parametrize(
    ("algorithm", "members"),
    [("ES256", ("crv", "kty", "x", "y")), ("EdDSA", ("crv", "kty", "x")), ("HS256", ("k", "kty"))],
)
def test_the_thumbprint_is_that_of_the_required_members_in_order(algorithm: str, members: tuple[str, ...]) -> None:
    key = SigningKey(GOOD[algorithm], algorithm)
    values = {"k": base64.urlsafe_b64encode(SECRET).rstrip(b"=").decode(), "kty": "oct"} | (key.jwk() or {})
    text = "{" + ",".join(f'"{name}":"{values[name]}"' for name in members) + "}"
    digest = hashlib.sha256(text.encode()).digest()
    assert key.kid == base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_key_never_shows_its_secret(algorithm: str) -> None:
    shown = repr(SigningKey(GOOD[algorithm], algorithm, "k1"))
    assert shown == f"SigningKey('k1', {algorithm})"


# ---- key rings that change


def ring(**keys: Any) -> KeyRing:
    """A ring of ES256 and HS256 keys, by id."""
    return KeyRing([SigningKey(key, "HS256" if isinstance(key, bytes) else "ES256", kid) for kid, key in keys.items()])


ANOTHER = ec.generate_private_key(ec.SECP256R1())


@pytest.mark.parametrize(
    ("after", "has_lost"),
    [
        (ring(k1=P256, k0=SECRET), False),
        (ring(k0=SECRET, k1=P256), False),
        (ring(k2=ANOTHER, k1=P256, k0=SECRET), False),
        (ring(k1=P256), True),
        (ring(k1=ANOTHER, k0=SECRET), True),
        (ring(k1=P256, k0=SECRET[::-1]), True),
        (ring(k1=SECRET, k0=SECRET), True),
        (ring(k2=ANOTHER), True),
    ],
)
def test_a_renewed_ring_reports_removed_keys(after: KeyRing, has_lost: bool) -> None:
    before = ring(k1=P256, k0=SECRET)
    held = [key for kid in before.ids if (key := before.get(kid)) is not None]
    assert before.renew(after) is has_lost
    assert before.ids == after.ids
    assert before.jwks() == after.jwks()
    signature = before.signer.sign(b"message")
    assert (before.signer.kid, after.signer.verifies(b"message", signature)) == (after.signer.kid, True)
    assert all(before.holds(key) for key in held) is not has_lost


def test_a_key_that_stays_is_the_same_key_and_one_of_the_same_name_is_not() -> None:
    keys = ring(k1=P256, k2=ANOTHER)
    first, second = keys.get("k1"), keys.get("k2")
    assert first is not None and second is not None
    keys.renew(ring(k2=P256, k1=P256))
    assert keys.holds(first) and not keys.holds(second)
