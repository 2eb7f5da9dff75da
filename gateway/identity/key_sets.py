"""The keys that somebody else publishes (RFC 7517): which of them may verify tokens, and as what.

A key counts for as little as it says of itself. One that is not for signatures, by its `use`, its `key_ops` or its
`alg`, is not looked at, nor is a secret, a private key, or an RSA key that is too short; one that names no algorithm is
for those of the ones accepted that its type has. Where its members lead elsewhere (`x5u`, `x5c`, `jku`) nobody goes.
"""

import codecs
from collections.abc import Collection, Iterator, Mapping
from itertools import chain
from typing import Any, Final

from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from jwt.exceptions import PyJWTError

from gateway.identity.jws import strict_json
from gateway.identity.keys import PublicKey, UnusableKey, VerifyingKey

MAX_KEYS: Final = 256  # in one set; those beyond are not looked at
MAX_SAME: Final = 4  # keys of one id and algorithm: each is tried for a token
_ALIASES: Final[Mapping[str, str]] = {"Ed25519": "EdDSA"}  # RFC 9864: the same algorithm by its full name

# Where each type is read; `oct` is none of them: a published secret is none.
_READERS: Final[Mapping[str, Any]] = {"RSA": RSAAlgorithm, "EC": ECAlgorithm, "OKP": OKPAlgorithm}


def canonical_algorithm(name: str) -> str:
    """The name of an algorithm as the settings have it."""
    return _ALIASES.get(name, name)


class UnusableKeySet(Exception):
    """A document that is no key set; the text says why."""


class KeySet:
    """The keys of one issuer, each for one algorithm. Several keys can have the same id (RFC 7517 4.5), of which the
    first MAX_SAME count."""

    def __init__(self, keys: Collection[VerifyingKey] = ()) -> None:
        self._keys: dict[tuple[str, str], tuple[VerifyingKey, ...]] = {}
        for key in keys:
            same = self._keys.get((key.kid, key.algorithm), ())
            if len(same) < MAX_SAME:
                self._keys[key.kid, key.algorithm] = (*same, key)

    def __len__(self) -> int:
        return sum(map(len, self._keys.values()))

    def __iter__(self) -> Iterator[VerifyingKey]:
        return chain.from_iterable(self._keys.values())

    def get(self, kid: str, algorithm: str) -> tuple[VerifyingKey, ...]:
        """The keys of this id for this algorithm."""
        return self._keys.get((kid, canonical_algorithm(algorithm)), ())

    def holds(self, key: object) -> bool:
        """Whether this very key is one of them."""
        return any(each is key for each in self)

    def after(self, earlier: "KeySet") -> "KeySet":
        """This set, in which the keys that an earlier one had too are the very same."""
        return KeySet([key if (old := earlier._same(key)) is None else old for key in self])

    def lacks_any_of(self, earlier: "KeySet") -> bool:
        """Whether a key of an earlier set is missing."""
        return any(self._same(key) is None for key in earlier)

    def _same(self, key: VerifyingKey) -> VerifyingKey | None:
        jwk = key.jwk()
        return next((each for each in self.get(key.kid, key.algorithm) if each.jwk() == jwk), None)


def read_key_set(text: bytes, algorithms: Collection[str]) -> KeySet:
    """The keys of a JWK set that may verify tokens by one of these algorithms. Raises UnusableKeySet."""
    try:
        document = strict_json(text.removeprefix(codecs.BOM_UTF8))  # RFC 8259 8.1 lets a reader ignore it
    except ValueError:
        raise UnusableKeySet("not JSON without repeated members") from None
    keys = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(keys, list):
        raise UnusableKeySet("no list of keys")
    return KeySet([key for jwk in keys[:MAX_KEYS] for key in _usable(jwk, algorithms)])


def _usable(jwk: Any, algorithms: Collection[str]) -> list[VerifyingKey]:
    if not isinstance(jwk, dict) or not _is_for_signatures(jwk):
        return []
    kid, algorithm = jwk.get("kid"), jwk.get("alg")
    public = _public_key(jwk)
    # A token names its key. One without a name could only be guessed at.
    if public is None or not isinstance(kid, str) or not kid:
        return []
    if isinstance(algorithm, str):
        algorithm = canonical_algorithm(algorithm)
    meant = [each for each in algorithms if "alg" not in jwk or each == algorithm]
    return [key for each in meant if (key := _bound(public, each, kid)) is not None]


def _is_for_signatures(jwk: Mapping[str, Any]) -> bool:
    """RFC 7517 4.2, 4.3: what a key says it is for, it is for, and for nothing else."""
    operations = jwk.get("key_ops", ["verify"])
    return jwk.get("use", "sig") == "sig" and isinstance(operations, list) and "verify" in operations


def _public_key(jwk: Mapping[str, Any]) -> PublicKey | None:
    kind = jwk.get("kty")
    reader = _READERS.get(kind) if isinstance(kind, str) else None
    if reader is None or "d" in jwk:  # a private key that is published is anybody's
        return None
    try:
        key = reader.from_jwk(dict(jwk))
    # What cryptography and base64 raise for numbers that are no key, and PyJWT for members that are missing.
    except (PyJWTError, ValueError, TypeError, KeyError, AttributeError):
        return None
    return key if isinstance(key, PublicKey) else None


def _bound(public: PublicKey, algorithm: str, kid: str) -> VerifyingKey | None:
    try:
        return VerifyingKey(public, algorithm, kid)
    except UnusableKey:
        return None
