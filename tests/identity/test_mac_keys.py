"""Keys that authenticate records: derived from the signing keys, or configured."""

import hmac
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from gateway.identity.keys import KeyRing, SigningKey
from gateway.identity.signing_keys import MacKeys
from tests.support.token_factory import shared_rsa_key

SECRET = "a secret of at least thirty-two bytes"
PRIVATE_KEYS: dict[str, Callable[[], EllipticCurvePrivateKey | RSAPrivateKey | Ed25519PrivateKey]] = {
    "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "ES512": lambda: ec.generate_private_key(ec.SECP521R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate,
    "RS256": lambda: shared_rsa_key(0),
}


def keys_of(*signing: SigningKey) -> MacKeys:
    return MacKeys(KeyRing(signing))


def of_secret(secret: str, kid: str = "k1") -> SigningKey:
    return SigningKey.from_secret(secret, "HS256", kid)


@pytest.mark.parametrize("algorithm", PRIVATE_KEYS)
def test_replicas_derive_the_same_key_from_the_same_signing_key(algorithm: str) -> None:
    """The id of the key and the encoding of its file make no difference."""
    private = PRIVATE_KEYS[algorithm]()
    formats = [PrivateFormat.PKCS8] if algorithm == "EdDSA" else [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL]
    pems = [private.private_bytes(Encoding.PEM, each, NoEncryption()).decode() for each in formats]
    replicas = [keys_of(SigningKey.from_pem(pem, algorithm, kid)) for pem, kid in zip(pems * 2, "abcd", strict=False)]
    macs = {replica.sign("place", b"content") for replica in replicas}
    assert len(macs) == 1
    assert all(replica.verifies("place", b"content", *macs) for replica in replicas)


@pytest.mark.parametrize("algorithm", [*PRIVATE_KEYS, "HS256"])
def test_another_signing_key_authenticates_nothing(algorithm: str) -> None:
    stranger = of_secret(SECRET[::-1]) if algorithm == "HS256" else SigningKey(PRIVATE_KEYS[algorithm](), algorithm)
    one, other = keys_of(stranger), keys_of(of_secret(SECRET))
    assert not other.verifies("place", b"content", one.sign("place", b"content"))
    assert not one.verifies("place", b"content", other.sign("place", b"content"))


@pytest.mark.parametrize(
    ("place", "content", "mac"),
    [
        ("placec", b"ontent", None),
        ("plac", b"econtent", None),
        ("Place", b"content", None),
        ("place", b"Content", None),
        ("place", b"content ", None),
        ("place", b"", None),
        ("place", b"content", b""),
        ("place", b"content", b"0" * 64),
        ("place", b"content", "\u0660".encode() * 32),
        ("place", b"content", b"\xff" * 64),
    ],
)
def test_a_mac_is_for_one_content_at_one_place(place: str, content: bytes, mac: bytes | None) -> None:
    keys = keys_of(of_secret(SECRET))
    genuine = keys.sign("place", b"content")
    assert keys.verifies("place", b"content", genuine)
    assert not keys.verifies(place, content, genuine if mac is None else mac)


def test_the_first_key_signs_and_all_verify_through_reloads() -> None:
    old, new = of_secret(SECRET, "old"), of_secret(SECRET[::-1], "new")
    ring = KeyRing([old])
    keys = MacKeys(ring)
    by_old = keys.sign("place", b"content")
    ring.renew(KeyRing([new, old]))
    by_new = keys.sign("place", b"content")
    assert by_new == keys_of(new).sign("place", b"content") != by_old
    assert keys.verifies("place", b"content", by_old) and keys.verifies("place", b"content", by_new)
    ring.renew(KeyRing([new]))
    assert not keys.verifies("place", b"content", by_old)
    assert keys.verifies("place", b"content", by_new)


def test_a_key_of_its_own_takes_the_place_of_the_signing_keys() -> None:
    own = MacKeys(KeyRing([of_secret(SECRET)]), own_key="another secret, for records alone")
    elsewhere = MacKeys(KeyRing([of_secret(SECRET[::-1])]), own_key="another secret, for records alone")
    assert elsewhere.verifies("place", b"content", own.sign("place", b"content"))
    assert not own.verifies("place", b"content", keys_of(of_secret(SECRET)).sign("place", b"content"))


def test_a_configured_key_that_is_a_signing_secret_too_makes_the_same_key() -> None:
    """Setting `cache.key` to the HS256 secret changes nothing, so it can be set without a roll-out of misses."""
    own = MacKeys(KeyRing([of_secret(SECRET[::-1])]), own_key=SECRET)
    assert own.sign("place", b"content") == keys_of(of_secret(SECRET)).sign("place", b"content")


def test_the_mac_is_the_same_in_every_release() -> None:
    """A changed MAC would prevent replicas of two releases from sharing records."""
    place, content = "gateway:1:user:u1", b"1 60000 0 null"
    # RFC 5869 2.2, 2.3, with no salt and one block.
    extracted = hmac.digest(bytes(32), SECRET.encode(), "sha256")
    key = hmac.digest(extracted, b"gateway: MAC of records and messages in Redis\x01", "sha256")
    mac = hmac.digest(key, b"17:" + place.encode() + content, "sha256").hex().encode()
    assert keys_of(of_secret(SECRET)).sign(place, content) == mac
