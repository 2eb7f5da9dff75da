"""The signing keys: those of the configuration, or one that the gateway generates.

The generated key is created once, in a file beside the SQLite database.
"""

import hmac
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from gateway.errors import CannotStart, ConfigurationError, Problem
from gateway.identity.key_files import kept_text
from gateway.identity.keys import KeyRing, SigningKey, UnusableKey
from gateway.settings.model import KeySettings, Settings
from gateway.settings.store_files import sqlite_file

# Keys that authenticate records and messages in a store that others can write to (Redis).
#
# Each signing key yields one MAC key by HKDF (RFC 5869). The first signs and all verify, as for tokens, so records
# and messages stay valid when signing keys rotate. A configured `cache.key` replaces all of them: an HS256 secret
# shared with upstreams must not authenticate records.
#
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


ALGORITHM: Final = "ES256"


def ephemeral_key() -> SigningKey:
    """A key for a database in memory, lost when the process ends."""
    return SigningKey(ec.generate_private_key(ec.SECP256R1()), ALGORITHM)


def _new_pem() -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode("ascii")


def kept_key(path: Path) -> SigningKey:
    """Load the key, creating it if the file does not exist. Raises CannotStart with the remedy."""
    pem = kept_text(path, _new_pem, name="the signing key", purpose="signs tokens")
    try:
        return SigningKey.from_pem(pem, ALGORITHM)
    except UnusableKey as error:
        raise CannotStart(f"{path}: {error}; move it away to create a new key") from None


_NO_KEYS: Final = (
    "must name a signing key, which all processes on one PostgreSQL database share (gateway keys generate)"
)


def key_ring(settings: Settings) -> KeyRing:
    """The keys of this gateway. Without configured keys, an ES256 key is created once beside an SQLite database.

    Raises ConfigurationError for unusable keys, and CannotStart if the created key cannot be stored.
    """
    keys, problems = _configured_keys(settings)
    if problems:
        raise ConfigurationError(problems)
    if keys:
        return KeyRing(keys)
    path = made_key_path(settings)
    return KeyRing([ephemeral_key() if path is None else kept_key(path)])


def mac_keys(settings: Settings, ring: KeyRing) -> MacKeys:
    """The keys that authenticate shared records: `cache.key`, else keys derived from the key ring."""
    own_key = settings.cache.key
    return MacKeys(ring, own_key=None if own_key is None else own_key.reveal())


def key_problems(settings: Settings) -> tuple[Problem, ...]:
    """The problems of `tokens.keys`. Creates and changes nothing."""
    return _configured_keys(settings)[1]


def _configured_keys(settings: Settings) -> tuple[list[SigningKey], tuple[Problem, ...]]:
    """The usable keys of `tokens.keys`, and the problems. OpenSSL takes 25 ms to check an RSA key."""
    if not settings.tokens.keys:
        made = settings.storage.database.reveal().startswith("sqlite")
        return [], () if made else (_problem(settings, "tokens.keys", _NO_KEYS),)
    keys: list[SigningKey] = []
    problems: list[Problem] = []
    for index, key in enumerate(settings.tokens.keys):
        try:
            keys.append(_signing_key(key))
        except UnusableKey as error:
            given = "secret" if key.secret is not None else "private_key"
            problems.append(_problem(settings, f"tokens.keys[{index}].{given}", str(error)))
    return keys, tuple(problems)


def made_key_path(settings: Settings) -> Path | None:
    """The file of the created key, beside the SQLite database; None for a database in memory."""
    database = sqlite_file(settings.storage.database.reveal())
    return None if database is None else Path(f"{database}.key.pem")


def _signing_key(key: KeySettings) -> SigningKey:
    if key.secret is not None:
        return SigningKey.from_secret(key.secret.reveal(), key.algorithm, key.kid)
    pem = key.private_key.reveal() if key.private_key is not None else ""
    return SigningKey.from_pem(pem, key.algorithm, key.kid)


def _problem(settings: Settings, key: str, message: str) -> Problem:
    return Problem(*settings.position_of(key), key, message)
