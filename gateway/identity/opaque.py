"""Opaque credentials: random text with a checksum, such as API keys and the links in mails.

    text = prefix + 32 characters + 6 characters of checksum      letters and digits after the prefix

The 32 characters are random, about 190 bits. The checksum is the CRC-32 of everything before it. It is not a secret: it
rejects mistyped or truncated text without a database query, and lets secret scanners recognise credentials.
"""

import re
import secrets
import string
import zlib
from typing import Final

_LETTERS: Final = string.digits + string.ascii_uppercase + string.ascii_lowercase
_RANDOM: Final = 32
_CHECKSUM: Final = 6  # 62 ** 6 > 2 ** 32
_TEXT: Final = re.compile(rb"[0-9A-Za-z]{38}").fullmatch


def new_opaque(prefix: str) -> str:
    """A new credential that begins with `prefix`."""
    text = prefix + "".join(secrets.choice(_LETTERS) for _ in range(_RANDOM))
    return text + _checksum(text.encode("ascii"))


def opaque_of(prefix: str, seed: bytes) -> str:
    """The credential that follows from a secret seed of at least 64 bytes, always the same one."""
    number, letters = int.from_bytes(seed, "big"), ""
    for _ in range(_RANDOM):
        number, index = divmod(number, len(_LETTERS))
        letters += _LETTERS[index]
    text = prefix + letters
    return text + _checksum(text.encode("ascii"))


def is_opaque(presented: bytes, prefix: str) -> bool:
    """Whether the text has the form and the checksum of a credential with this prefix."""
    start = prefix.encode("ascii")
    if not presented.startswith(start) or _TEXT(presented, len(start)) is None:
        return False
    return _checksum(presented[:-_CHECKSUM]).encode("ascii") == presented[-_CHECKSUM:]


def _checksum(text: bytes) -> str:
    number, letters = zlib.crc32(text), ""
    for _ in range(_CHECKSUM):
        number, index = divmod(number, len(_LETTERS))
        letters = _LETTERS[index] + letters
    return letters
