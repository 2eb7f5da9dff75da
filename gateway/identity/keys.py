"""Keys for signing and verifying tokens, each bound to one algorithm.

The key determines the algorithm, never the token: a key holds only PyJWT's implementation of its own algorithm, so a
token cannot select another one (CVE-2022-29217, CVE-2026-48523). Keys are validated when they are loaded, not at the
first use.
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
# RFC 7518 6, RFC 8037 2. The gateway sets purpose and name (alg, use, kid) itself.
_PUBLIC_MEMBERS: Final = ("kty", "crv", "x", "y", "n", "e")
_THUMBPRINT_MEMBERS: Final = (*_PUBLIC_MEMBERS, "k")  # RFC 7638 3.2


class UnusableKey(GatewayError):
    """Not a key for its algorithm. The text gives the reason and never reveals key material."""


class _Kind(NamedTuple):
    """The keys that an algorithm accepts: a description and a predicate."""

    words: str
    fits: Callable[[PublicKey | bytes], bool]


def _secret(least: int) -> _Kind:
    # RFC 7518 3.2: the key must be at least as long as the hash.
    return _Kind(f"a secret of at least {least} bytes", lambda key: isinstance(key, bytes) and len(key) >= least)


def _curve(curve: type[ec.EllipticCurve], name: str) -> _Kind:
    # RFC 7518 3.4: ES256 requires P-256.
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
_ALIASES: Final[Mapping[str, str]] = {"Ed25519": "EdDSA"}  # RFC 9864: the same algorithm under its full name.
_CURVE_NAMES: Final = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}


def canonical_algorithm(name: str) -> str:
    """The name of an algorithm as used in the settings."""
    return _ALIASES.get(name, name)


class VerifyingKey:
    """A key that verifies signatures. Without `kid`, the id is the key's thumbprint (RFC 7638).

    `public` is the secret itself for an HMAC algorithm. Raises UnusableKey for a key that does not fit `algorithm`.
    """

    __slots__ = ("_implementation", "_public", "algorithm", "kid")

    def __init__(self, public: PublicKey | bytes, algorithm: str, kid: str | None = None) -> None:
        if algorithm not in _KINDS:
            raise UnusableKey(f"unknown algorithm '{algorithm}' ({', '.join(ALGORITHMS)})")
        kind = _KINDS[algorithm]
        if not kind.fits(public):
            right = _fitting(public) or "gateway keys generate makes one"
            raise UnusableKey(f"must be {kind.words} for {algorithm}, found {_in_words(public)} ({right})")
        self.algorithm = algorithm
        self._implementation = _IMPLEMENTATIONS[algorithm]
        self._public = self._prepared(public)
        self.kid = kid if kid is not None else self._thumbprint()

    def verifies(self, signed: bytes, signature: bytes) -> bool:
        """Whether `signature` is this key's signature of `signed`."""
        return self._implementation.verify(signed, self._public, signature)

    def jwk(self) -> dict[str, str] | None:
        """The public key for publication (RFC 7517); None for a secret."""
        if isinstance(self._public, bytes):
            return None
        members = self._members()
        public = {name: members[name] for name in _PUBLIC_MEMBERS if name in members}
        return public | {"use": "sig", "alg": self.algorithm, "kid": self.kid}

    def is_same_as(self, other: "VerifyingKey") -> bool:
        """Whether both keys verify the same signatures under the same id."""
        return (self.kid, self.algorithm) == (other.kid, other.algorithm) and self._members() == other._members()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.kid!r}, {self.algorithm})"

    def _prepared(self, key: PublicKey | bytes) -> PublicKey | bytes:
        try:
            prepared: PublicKey | bytes = self._implementation.prepare_key(key)
        except InvalidKeyError:
            # If the text of a public key were used as a secret, anyone who knows that key could sign.
            message = "must be a random secret, found a key or certificate, which others know in part"
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
        """Load a private key in PEM form. Raises UnusableKey."""
        return cls(_private_key(pem.strip().encode("utf-8", "surrogatepass")), algorithm, kid)

    @classmethod
    def from_secret(cls, secret: str, algorithm: str, kid: str | None = None) -> "SigningKey":
        """A shared secret as a key: the UTF-8 bytes of the text. Raises UnusableKey."""
        return cls(secret.encode("utf-8", "surrogatepass"), algorithm, kid)

    def sign(self, signed: bytes) -> bytes:
        return self._implementation.sign(signed, self._private)

    def secret_material(self) -> bytes:
        """The secret number or bytes of the key, for deriving keys with other purposes.

        Independent of encodings, so replicas with different library versions derive the same keys.
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
    """The keys of one gateway: the first signs, all verify. Raises UnusableKey if two have the same id.

    Signers, verifiers and the JWKS endpoint share one ring, so a reload renews the keys for all of them at once.
    """

    def __init__(self, keys: Sequence[SigningKey]) -> None:
        self.signer = keys[0]
        self._keys = {key.kid: key for key in keys}
        if len(self._keys) != len(keys):
            raise UnusableKey("two keys have the same id")

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids of all keys, the signing key first."""
        return tuple(self._keys)

    @property
    def signing_keys(self) -> tuple[SigningKey, ...]:
        """All keys, the signing key first."""
        return tuple(self._keys.values())

    def renew(self, other: "KeyRing") -> bool:
        """Replace the keys with those of another ring. Returns whether a key was removed or changed.

        Unchanged keys keep their identity as objects.
        """
        before = self._keys
        self._keys = {kid: _unchanged(before.get(kid), key) for kid, key in other._keys.items()}
        self.signer = self._keys[other.signer.kid]
        return any(self._keys.get(kid) is not key for kid, key in before.items())

    def holds(self, key: object) -> bool:
        """Whether this key object is in the ring."""
        return key in self._keys.values()

    def get(self, kid: str) -> VerifyingKey | None:
        """The key with this id, or None. Ids are only dict keys; they never reach a file or the network."""
        return self._keys.get(kid)

    def jwks(self) -> dict[str, list[dict[str, str]]]:
        """The public keys as a JWK set, the signing key first. Contains no secrets."""
        return {"keys": [jwk for key in self._keys.values() if (jwk := key.jwk()) is not None]}


def _unchanged(before: SigningKey | None, key: SigningKey) -> SigningKey:
    return before if before is not None and before.is_same_as(key) else key


def _fitting(key: PublicKey | bytes) -> str:
    """The algorithms of a key, as a remedy. A secret never gets one: its length alone is wrong."""
    names = [] if isinstance(key, bytes) else [name for name, kind in _KINDS.items() if kind.fits(key)]
    return f"algorithm: {' or '.join(names)}, or another key" if names else ""


def _in_words(key: PublicKey | bytes) -> str:
    if isinstance(key, bytes):
        return f"a secret of {len(key)} bytes"
    if isinstance(key, rsa.RSAPublicKey):
        return f"an RSA key of {key.key_size} bits"
    if isinstance(key, ec.EllipticCurvePublicKey):
        return f"an elliptic curve key on {_CURVE_NAMES.get(key.curve.name, key.curve.name)}"
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
