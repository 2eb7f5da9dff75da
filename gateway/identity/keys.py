"""Keys that sign and verify tokens: one algorithm each.

The key decides the algorithm, never the token: a key is bound to one when it is made, and holds PyJWT's implementation
of that one only. So there is no algorithm to choose when a token comes, and none to be talked into (CVE-2022-29217,
CVE-2026-48523). What may be a key for an algorithm is settled here, once, and not when the first token is verified.
"""

import base64
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key
from jwt.algorithms import Algorithm, get_default_algorithms
from jwt.exceptions import InvalidKeyError

from gateway.errors import GatewayError

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey
PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey

MIN_RSA_BITS: Final = 2048  # NIST SP 800-131A
# RFC 7518 6, RFC 8037 2. What the key is for (alg, use, kid) is ours to say.
_PUBLIC_MEMBERS: Final = ("kty", "crv", "x", "y", "n", "e")
_THUMBPRINT_MEMBERS: Final = (*_PUBLIC_MEMBERS, "k")  # RFC 7638 3.2


class UnusableKey(GatewayError):
    """Something that cannot be the key of its algorithm; the text says why, and never shows any of it."""


class _Kind(NamedTuple):
    """What an algorithm takes for a key, in words and as a test."""

    words: str
    fits: Callable[[PublicKey | bytes], bool]


def _secret(least: int) -> _Kind:
    # RFC 7518 3.2: a key of at least the size of the hash.
    return _Kind(f"a secret of at least {least} bytes", lambda key: isinstance(key, bytes) and len(key) >= least)


def _curve(curve: type[ec.EllipticCurve], name: str) -> _Kind:
    # RFC 7518 3.4: ES256 is P-256, and nothing else.
    return _Kind(
        f"an elliptic curve key on {name}",
        lambda key: isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, curve),
    )


_RSA: Final = _Kind(
    f"an RSA key of at least {MIN_RSA_BITS} bits",
    lambda key: isinstance(key, rsa.RSAPublicKey) and key.key_size >= MIN_RSA_BITS,
)
_ED25519: Final = _Kind("an Ed25519 key", lambda key: isinstance(key, ed25519.Ed25519PublicKey))
_KINDS: Final[Mapping[str, _Kind]] = {
    "HS256": _secret(32),
    "HS384": _secret(48),
    "HS512": _secret(64),
    **dict.fromkeys(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"), _RSA),
    "ES256": _curve(ec.SECP256R1, "P-256"),
    "ES384": _curve(ec.SECP384R1, "P-384"),
    "ES512": _curve(ec.SECP521R1, "P-521"),
    "EdDSA": _ED25519,
}
_IMPLEMENTATIONS: Final[Mapping[str, Algorithm]] = {
    name: algorithm for name, algorithm in get_default_algorithms().items() if name in _KINDS
}
ALGORITHMS: Final = tuple(_KINDS)


class VerifyingKey:
    """A key that can tell whether it signed something. `kid` None: the key's thumbprint (RFC 7638) is its id.

    `public` is the secret itself for an HMAC algorithm. Raises UnusableKey for what is no key of `algorithm`.
    """

    __slots__ = ("_implementation", "_public", "algorithm", "kid")

    def __init__(self, public: PublicKey | bytes, algorithm: str, kid: str | None = None) -> None:
        if algorithm not in _KINDS:
            raise UnusableKey(f"no algorithm '{algorithm}' is known here ({', '.join(ALGORITHMS)})")
        kind = _KINDS[algorithm]
        if not kind.fits(public):
            raise UnusableKey(f"must be {kind.words} for {algorithm}, found {_in_words(public)}")
        self.algorithm = algorithm
        self._implementation = _IMPLEMENTATIONS[algorithm]
        self._public = self._prepared(public)
        self.kid = kid if kid is not None else self._thumbprint()

    def verifies(self, signed: bytes, signature: bytes) -> bool:
        """Whether `signature` is this key's over `signed`."""
        return self._implementation.verify(signed, self._public, signature)

    def jwk(self) -> dict[str, str] | None:
        """The public key as others may have it (RFC 7517); None for a secret, which nobody may."""
        if isinstance(self._public, bytes):
            return None
        members = self._members()
        public = {name: members[name] for name in _PUBLIC_MEMBERS if name in members}
        return public | {"use": "sig", "alg": self.algorithm, "kid": self.kid}

    def is_same_as(self, other: "VerifyingKey") -> bool:
        """Whether it verifies what the other one does, under the same id."""
        return (self.kid, self.algorithm) == (other.kid, other.algorithm) and self._members() == other._members()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.kid!r}, {self.algorithm})"

    def _prepared(self, key: PublicKey | bytes) -> PublicKey | bytes:
        try:
            prepared: PublicKey | bytes = self._implementation.prepare_key(key)
        except InvalidKeyError:
            # Whoever knows a public key could sign with it, were its text ever taken for a secret.
            message = "must be a random secret, found a key or certificate, of which others have a part"
            raise UnusableKey(f"{message} (openssl rand -hex 32)") from None
        return prepared

    def _members(self) -> dict[str, Any]:
        return self._implementation.to_jwk(self._public, as_dict=True)

    def _thumbprint(self) -> str:
        members = self._members()
        required = {name: members[name] for name in sorted(_THUMBPRINT_MEMBERS) if name in members}
        digest = hashlib.sha256(json.dumps(required, separators=(",", ":")).encode("ascii")).digest()
        return base64.urlsafe_b64encode(digest).rstrip(b"=").decode("ascii")


class SigningKey(VerifyingKey):
    """A key that signs. `private` is the secret itself for an HMAC algorithm."""

    __slots__ = ("_private",)

    def __init__(self, private: PrivateKey | bytes, algorithm: str, kid: str | None = None) -> None:
        super().__init__(private if isinstance(private, bytes) else private.public_key(), algorithm, kid)
        self._private = private

    @classmethod
    def from_pem(cls, pem: str, algorithm: str, kid: str | None = None) -> "SigningKey":
        """The key of a private key in PEM form. Raises UnusableKey."""
        return cls(_private_key(pem.strip().encode("utf-8", "surrogatepass")), algorithm, kid)

    @classmethod
    def from_secret(cls, secret: str, algorithm: str, kid: str | None = None) -> "SigningKey":
        """The key of a shared secret: its bytes are those of the text in UTF-8. Raises UnusableKey."""
        return cls(secret.encode("utf-8", "surrogatepass"), algorithm, kid)

    def sign(self, signed: bytes) -> bytes:
        """The signature over `signed`."""
        return self._implementation.sign(signed, self._private)

    def secret_material(self) -> bytes:
        """The secret number or bytes of the key, from which keys for other purposes are derived.

        It does not depend on an encoding, so replicas with different releases of a library derive the same keys.
        """
        match self._private:
            case bytes(secret):
                return secret
            case ed25519.Ed25519PrivateKey():
                return self._private.private_bytes_raw()
            case ec.EllipticCurvePrivateKey():
                number = self._private.private_numbers().private_value
            case _:
                number = self._private.private_numbers().d
        return number.to_bytes((number.bit_length() + 7) // 8)


class KeyRing:
    """The keys of one gateway: the first signs, all of them verify. Raises UnusableKey when two have the same id.

    One ring serves whoever signs, verifies or publishes: keys that are renewed are renewed for all of them at once.
    """

    def __init__(self, keys: Sequence[SigningKey]) -> None:
        self.signer = keys[0]
        self._keys = {key.kid: key for key in keys}
        if len(self._keys) != len(keys):
            raise UnusableKey("two keys have the same id")

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids of all keys, the signing one's first."""
        return tuple(self._keys)

    @property
    def signing_keys(self) -> tuple[SigningKey, ...]:
        """All keys, the signing one first."""
        return tuple(self._keys.values())

    def renew(self, other: "KeyRing") -> bool:
        """Have the keys of another ring from now on; whether one has gone by that, or turned into another.

        A key that both rings have remains the object it is.
        """
        before = self._keys
        self._keys = {kid: _unchanged(before.get(kid), key) for kid, key in other._keys.items()}
        self.signer = self._keys[other.signer.kid]
        return any(self._keys.get(kid) is not key for kid, key in before.items())

    def holds(self, key: object) -> bool:
        """Whether this very key is still one of them."""
        return key in self._keys.values()

    def get(self, kid: str) -> VerifyingKey | None:
        """The key of this id, or None. The id names a key in memory; it never reaches a file or the network."""
        return self._keys.get(kid)

    def jwks(self) -> dict[str, list[dict[str, str]]]:
        """The key set that verifiers elsewhere need: the public keys, no secret, the signing one first."""
        return {"keys": [jwk for key in self._keys.values() if (jwk := key.jwk()) is not None]}


def _unchanged(before: SigningKey | None, key: SigningKey) -> SigningKey:
    return before if before is not None and before.is_same_as(key) else key


def _in_words(key: PublicKey | bytes) -> str:
    if isinstance(key, bytes):
        return f"a secret of {len(key)} bytes"
    if isinstance(key, rsa.RSAPublicKey):
        return f"an RSA key of {key.key_size} bits"
    if isinstance(key, ec.EllipticCurvePublicKey):
        return f"an elliptic curve key on {key.curve.name}"
    return "an Ed25519 key"


def _private_key(pem: bytes) -> PrivateKey:
    try:
        key = load_pem_private_key(pem, password=None)
    except TypeError:
        raise UnusableKey("must be a private key without a passphrase, found an encrypted one") from None
    except (ValueError, UnsupportedAlgorithm):
        found = "a public one" if _is_public(pem) else "something else"
        raise UnusableKey(f"must be a private key in PEM form, found {found}") from None
    if not isinstance(key, PrivateKey):
        raise UnusableKey(f"must be an elliptic curve, RSA or Ed25519 key, found {type(key).__name__}")
    return key


def _is_public(pem: bytes) -> bool:
    try:
        load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        return False
    return True
