"""Encryption of stored values that a leaked database must not reveal: links in mail that waits to be sent.

    value = version (1 byte) ‖ key digest (8 bytes) ‖ nonce (12 bytes) ‖ AES-256-GCM ciphertext and tag

The first key of `storage.encryption_keys` encrypts, and all decrypt. The digest of the key selects it, so a key can get
another id. The place of a value (its table and row) is authenticated with it: the value of one row is not valid in
another row.
"""

import base64
import hashlib
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from gateway.errors import CannotStart
from gateway.identity.key_files import kept_text
from gateway.settings.model import Settings
from gateway.settings.store_files import sqlite_file

KEY_BYTES: Final = 32
_VERSION: Final = b"\x01"
_DIGEST: Final = 8
_NONCE: Final = 12
_HEAD: Final = len(_VERSION) + _DIGEST + _NONCE


class Undecryptable(Exception):
    """A value that none of the keys encrypted for this place."""


class Cipher:
    """Encrypts with the first key and decrypts with all. Each key has 32 bytes."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._keys = {_digest(key): AESGCM(key) for key in keys}
        self._first = _digest(keys[0])

    def encrypt(self, plaintext: bytes, *, place: str) -> bytes:
        """Encrypt a value for `place`, such as `outbox:ID`."""
        nonce = secrets.token_bytes(_NONCE)
        sealed = self._keys[self._first].encrypt(nonce, plaintext, place.encode())
        return _VERSION + self._first + nonce + sealed

    def decrypt(self, value: bytes, *, place: str) -> bytes:
        """Decrypt a value of `place`. Raises Undecryptable."""
        digest, nonce = value[len(_VERSION) : len(_VERSION) + _DIGEST], value[_HEAD - _NONCE : _HEAD]
        key = self._keys.get(digest)
        if key is None or value[: len(_VERSION)] != _VERSION or len(nonce) != _NONCE:
            raise Undecryptable
        try:
            return key.decrypt(nonce, value[_HEAD:], place.encode())
        except InvalidTag:
            raise Undecryptable from None


def open_cipher(settings: Settings) -> Cipher | None:
    """The cipher of a configuration with mail, None without. The key of a database in memory lives as long as the
    process. Raises CannotStart if the created key cannot be stored."""
    if settings.mail is None:
        return None
    if settings.storage.encryption_keys:
        return Cipher([base64.b64decode(each.key.reveal()) for each in settings.storage.encryption_keys])
    path = encryption_key_path(settings.storage.database.reveal())
    return Cipher([secrets.token_bytes(KEY_BYTES) if path is None else kept_encryption_key(path)])


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(b"gateway: id of an encryption key" + key).digest()[:_DIGEST]


def encryption_key_path(address: str) -> Path | None:
    """The file of the created key, beside the SQLite database at `address`; None for a database in memory."""
    database = sqlite_file(address)
    return None if database is None else Path(f"{database}.encryption.key")


def kept_encryption_key(path: Path) -> bytes:
    """Load the key, creating it if the file does not exist. Raises CannotStart with the remedy."""
    text = kept_text(path, _new_key, name="the encryption key", purpose="encrypts stored values")
    try:
        key = base64.b64decode(text.strip(), validate=True)
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise CannotStart(f"{path}: must hold {KEY_BYTES} bytes in base64; move it away to create a new key")
    return key


def _new_key() -> str:
    return base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode("ascii") + "\n"
