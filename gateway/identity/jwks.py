"""JWK sets of external issuers (RFC 7517): select the keys that can verify tokens, each for its algorithms.

A key is used only as it declares. Keys with another `use`, `key_ops` or `alg`, secrets, private keys and short RSA keys
are ignored. A key without `alg` is used for the accepted algorithms of its type. Members that refer elsewhere (`x5u`,
`x5c`, `jku`) are not followed.
"""

import codecs
from collections.abc import Collection, Iterator, Mapping
from itertools import chain
from typing import Any, Final

from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from jwt.exceptions import PyJWTError

from gateway.identity.jws import strict_json
from gateway.identity.keys import PublicKey, UnusableKey, VerifyingKey, canonical_algorithm

MAX_KEYS: Final = 256  # Per set; further keys are ignored.
MAX_SAME: Final = 4  # Keys with equal id and algorithm. Each one is tried for a token.

# The parser for each key type. `oct` is missing: a published secret is not secret.
_READERS: Final[Mapping[str, Any]] = {"RSA": RSAAlgorithm, "EC": ECAlgorithm, "OKP": OKPAlgorithm}


class UnusableKeySet(Exception):
    """The document is not a key set; the text gives the reason."""


class KeySet:
    """The keys of one issuer, one entry per algorithm. Ids can repeat (RFC 7517 4.5); the first MAX_SAME keys are
    used."""

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
        return self._keys.get((kid, canonical_algorithm(algorithm)), ())

    def holds(self, key: object) -> bool:
        """Whether this key object is in the set."""
        return any(each is key for each in self)

    def after(self, earlier: "KeySet") -> "KeySet":
        """This set, reusing the key objects of `earlier` for unchanged keys."""
        return KeySet([key if (old := earlier._same(key)) is None else old for key in self])

    def lacks_any_of(self, earlier: "KeySet") -> bool:
        """Whether a key of an earlier set is missing."""
        return any(self._same(key) is None for key in earlier)

    def _same(self, key: VerifyingKey) -> VerifyingKey | None:
        jwk = key.jwk()
        return next((each for each in self.get(key.kid, key.algorithm) if each.jwk() == jwk), None)


def read_key_set(text: bytes, algorithms: Collection[str]) -> KeySet:
    """Parse a JWK set and select the keys for these algorithms. Raises UnusableKeySet."""
    try:
        # RFC 8259 8.1: a parser can ignore the byte order mark.
        document = strict_json(text.removeprefix(codecs.BOM_UTF8))
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
    # Tokens name their key by id, so a key without an id cannot be selected.
    if public is None or not isinstance(kid, str) or not kid:
        return []
    if isinstance(algorithm, str):
        algorithm = canonical_algorithm(algorithm)
    meant = [each for each in algorithms if "alg" not in jwk or each == algorithm]
    return [key for each in meant if (key := _bound(public, each, kid)) is not None]


def _is_for_signatures(jwk: Mapping[str, Any]) -> bool:
    """RFC 7517 4.2, 4.3: `use` and `key_ops` limit the purpose of a key."""
    operations = jwk.get("key_ops", ["verify"])
    return jwk.get("use", "sig") == "sig" and isinstance(operations, list) and "verify" in operations


def _public_key(jwk: Mapping[str, Any]) -> PublicKey | None:
    kind = jwk.get("kty")
    reader = _READERS.get(kind) if isinstance(kind, str) else None
    if reader is None or "d" in jwk:  # a published private key is known to everyone
        return None
    try:
        key = reader.from_jwk(dict(jwk))
    # cryptography and base64 raise these for invalid numbers, PyJWT for missing members.
    except (PyJWTError, ValueError, TypeError, KeyError, AttributeError):
        return None
    return key if isinstance(key, PublicKey) else None


def _bound(public: PublicKey, algorithm: str, kid: str) -> VerifyingKey | None:
    try:
        return VerifyingKey(public, algorithm, kid)
    except UnusableKey:
        return None
