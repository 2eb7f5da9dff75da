"""The signing keys: those of the configuration, or one that the gateway generates.

The generated key is created once, in a file beside the SQLite database. The file is written under a temporary name with
mode 0600 and then linked, so it is never visible incomplete or to others. If several processes start at once, exactly
one creates the key and all use it.
"""

import contextlib
import logging
import os
import secrets
import stat
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from gateway.errors import CannotStart, ConfigurationError, Problem, cannot_read
from gateway.identity.keys import KeyRing, SigningKey, UnusableKey
from gateway.identity.mac_keys import MacKeys
from gateway.settings.checks import is_in_memory
from gateway.settings.model import KeySettings, Settings

ALGORITHM: Final = "ES256"
_MAX_SIZE: Final = 65536  # In bytes; a key has about 250.

log: Final = logging.getLogger("gateway.identity.keyfile")


def ephemeral_key() -> SigningKey:
    """A key for a database in memory, lost when the process ends."""
    return SigningKey(ec.generate_private_key(ec.SECP256R1()), ALGORITHM)


def kept_key(path: Path) -> SigningKey:
    """Load the key, creating it if the file does not exist. Raises CannotStart with the remedy."""
    pem = _read(path)
    if pem is None:
        _make(path)
        pem = _read(path)
        if pem is None:
            raise CannotStart(f"{path}: the file was removed as soon as it was created; find the cause")
    try:
        return SigningKey.from_pem(pem, ALGORITHM)
    except UnusableKey as error:
        raise CannotStart(f"{path}: {error}; move it away to create a new key") from None


def _read(path: Path) -> str | None:
    """The text of the file, None if it does not exist. Mode and type are checked on the open file, so that they cannot
    change before the read."""
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise CannotStart(f"{path}: not a regular file; a signing key is expected there")
            _check_mode(path, stat.S_IMODE(status.st_mode))
            return file.read(_MAX_SIZE).decode("ascii", "replace")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CannotStart(f"{cannot_read(path, error)}; it holds the key that signs tokens") from None


def _check_mode(path: Path, mode: int) -> None:
    """Refuse a key that others can read.

    Kubernetes gives the files of a volume to the group `fsGroup` at each mount, with mode 0660; GATEWAY_KEY_MODE=group
    accepts that with a warning.
    """
    if not mode & 0o077:
        return
    if mode & 0o007 or os.environ.get("GATEWAY_KEY_MODE") != "group":
        remedy = f"run: chmod 600 {path}"
        if not mode & 0o007:
            remedy += ", or set GATEWAY_KEY_MODE=group if the volume assigns a group (fsGroup)"
        raise CannotStart(f"{path}: readable by others (mode {mode:04o}); {remedy}")
    log.warning("%s can be read by its group (mode %04o, GATEWAY_KEY_MODE=group)", path, mode)


def _make(path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):  # another process was faster: its key is used
            os.link(draft, path)
    except OSError as error:
        raise CannotStart(f"{cannot_read(path, error)}; the signing key is created there") from None
    finally:
        with contextlib.suppress(OSError):  # not created; the error above gives the reason
            draft.unlink()


_NO_KEYS: Final = "must name a signing key, because replicas need a shared one (gateway keys generate)"


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
