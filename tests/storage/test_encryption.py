"""Encrypted values: keys, places, and everything that does not decrypt."""

import base64
import secrets
import stat
from pathlib import Path

import pytest

from gateway.errors import CannotStart
from gateway.storage.encryption import Cipher, Undecryptable, encryption_key_path, kept_encryption_key

OLD, NEW = secrets.token_bytes(32), secrets.token_bytes(32)
TEXT = b"https://app.example.com/account/reset?token=gwl_"


def test_a_value_is_decrypted_at_its_place() -> None:
    sealed = Cipher([NEW]).encrypt(TEXT, place="outbox:1")
    assert TEXT not in sealed
    assert Cipher([NEW]).decrypt(sealed, place="outbox:1") == TEXT


def test_equal_values_are_encrypted_differently() -> None:
    cipher = Cipher([NEW])
    assert len({cipher.encrypt(TEXT, place="outbox:1") for _ in range(50)}) == 50


def test_the_first_key_encrypts_and_all_decrypt() -> None:
    sealed = Cipher([OLD]).encrypt(TEXT, place="outbox:1")
    rotated = Cipher([NEW, OLD])
    assert rotated.decrypt(sealed, place="outbox:1") == TEXT
    with pytest.raises(Undecryptable):
        Cipher([OLD]).decrypt(rotated.encrypt(TEXT, place="outbox:1"), place="outbox:1")


def test_a_value_of_another_row_is_refused() -> None:
    cipher = Cipher([NEW])
    with pytest.raises(Undecryptable):
        cipher.decrypt(cipher.encrypt(TEXT, place="outbox:1"), place="outbox:2")


def test_no_changed_or_truncated_value_is_decrypted() -> None:
    cipher = Cipher([NEW])
    sealed = cipher.encrypt(TEXT, place="outbox:1")
    flipped = [sealed[:i] + bytes([sealed[i] ^ 1]) + sealed[i + 1 :] for i in range(len(sealed))]
    for value in [*flipped, *(sealed[:length] for length in range(len(sealed))), sealed + b"\0"]:
        with pytest.raises(Undecryptable):
            cipher.decrypt(value, place="outbox:1")


def test_a_key_is_created_once_beside_the_database(tmp_path: Path) -> None:
    path = encryption_key_path(f"sqlite:///{tmp_path}/gateway.db")
    assert path == tmp_path / "gateway.db.encryption.key"
    key = kept_encryption_key(path)
    assert len(key) == 32
    assert kept_encryption_key(path) == key
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_database_in_memory_has_no_key_file() -> None:
    assert encryption_key_path("sqlite://") is None


@pytest.mark.parametrize("content", ["", "garbage", base64.b64encode(b"short").decode(), "A" * 45])
def test_a_file_without_a_key_is_refused_and_left_alone(tmp_path: Path, content: str) -> None:
    path = tmp_path / "gateway.db.encryption.key"
    path.touch(0o600)
    path.write_text(content)
    with pytest.raises(CannotStart, match="must hold 32 bytes in base64"):
        kept_encryption_key(path)
    assert path.read_text() == content


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "gateway.db.encryption.key"
    kept_encryption_key(path)
    path.chmod(0o644)
    with pytest.raises(CannotStart, match="chmod 600"):
        kept_encryption_key(path)
