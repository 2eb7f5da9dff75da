"""The signing keys: those of the configuration, or one that the gateway generates.

The generated key is created once, in a file beside the SQLite database.
"""

from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from gateway.errors import CannotStart, ConfigurationError, Problem
from gateway.identity.key_files import kept_text
from gateway.identity.keys import KeyRing, SigningKey, UnusableKey
from gateway.identity.mac_keys import MacKeys
from gateway.settings.checks import is_in_memory
from gateway.settings.model import KeySettings, Settings

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
    problems = key_problems(settings)
    if problems:
        raise ConfigurationError(problems)
    if settings.tokens.keys:
        return KeyRing([_signing_key(key) for key in settings.tokens.keys])
    path = made_key_path(settings)
    return KeyRing([ephemeral_key() if path is None else kept_key(path)])


def mac_keys(settings: Settings, ring: KeyRing) -> MacKeys:
    """The keys that authenticate shared records: `cache.key`, else keys derived from the key ring."""
    own_key = settings.cache.key
    return MacKeys(ring, own_key=None if own_key is None else own_key.reveal())


def key_problems(settings: Settings) -> tuple[Problem, ...]:
    """The problems of `tokens.keys`. Creates and changes nothing."""
    if not settings.tokens.keys:
        made = settings.storage.database.reveal().startswith("sqlite")
        return () if made else (_problem(settings, "tokens.keys", _NO_KEYS),)
    problems = []
    for index, key in enumerate(settings.tokens.keys):
        try:
            _signing_key(key)
        except UnusableKey as error:
            given = "secret" if key.secret is not None else "private_key"
            problems.append(_problem(settings, f"tokens.keys[{index}].{given}", str(error)))
    return tuple(problems)


def made_key_path(settings: Settings) -> Path | None:
    """The file of the created key, beside the SQLite database; None for a database in memory."""
    address = settings.storage.database.reveal()
    if is_in_memory(address):
        return None
    return Path(address.partition("://")[2].removeprefix("/").partition("?")[0] + ".key.pem")


def _signing_key(key: KeySettings) -> SigningKey:
    if key.secret is not None:
        return SigningKey.from_secret(key.secret.reveal(), key.algorithm, key.kid)
    pem = key.private_key.reveal() if key.private_key is not None else ""
    return SigningKey.from_pem(pem, key.algorithm, key.kid)


def _problem(settings: Settings, key: str, message: str) -> Problem:
    return Problem(*settings.position_of(key), key, message)
