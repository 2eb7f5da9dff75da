"""Keys that authenticate records and messages in a store that others can write to (Redis).

Each signing key yields one MAC key by HKDF (RFC 5869). The first signs and all verify, as for tokens, so records and
messages stay valid when signing keys rotate. A configured `cache.key` replaces all of them: an HS256 secret shared with
upstreams must not authenticate records.
"""

import hmac
from typing import Final

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from gateway.identity.keys import KeyRing, SigningKey

# The purpose separates these keys from token keys (RFC 5869 3.2): no signature is a MAC, and no MAC is a signature.
_PURPOSE: Final = b"gateway: MAC of records and messages in Redis"


class MacKeys:
    """Signs with the first key and verifies with all. It follows `ring` through reloads."""

    def __init__(self, ring: KeyRing, *, own_key: str | None = None) -> None:
        self._ring = ring
        self._own = None if own_key is None else _derived(own_key.encode("utf-8", "surrogatepass"))
        self._derived_from: tuple[SigningKey, ...] = ()
        self._derived: tuple[bytes, ...] = ()

    def sign(self, place: str, content: bytes) -> bytes:
        """The MAC (HMAC-SHA256, in hexadecimal) of `content` at `place`, the name of a key or a channel."""
        return _mac(self._current()[0], place, content)

    def verifies(self, place: str, content: bytes, mac: bytes) -> bool:
        """Whether one of the keys made this MAC for this content at this place."""
        return any(hmac.compare_digest(_mac(key, place, content), mac) for key in self._current())

    def _current(self) -> tuple[bytes, ...]:
        if self._own is not None:
            return (self._own,)
        keys = self._ring.signing_keys
        if keys != self._derived_from:
            self._derived = tuple(_derived(key.secret_material()) for key in keys)
            self._derived_from = keys
        return self._derived


def _derived(material: bytes) -> bytes:
    return HKDF(SHA256(), 32, salt=None, info=_PURPOSE).derive(material)


def _mac(key: bytes, place: str, content: bytes) -> bytes:
    # The MAC covers the place and its length, so that the record of one user is not valid at another user's key.
    name = place.encode("utf-8", "surrogatepass")
    return hmac.digest(key, b"%d:%b%b" % (len(name), name, content), "sha256").hex().encode("ascii")
