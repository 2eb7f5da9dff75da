"""API keys: what machines present in the place of somebody's token.

    key  = "gwk_" + 32 characters + 6 characters of checksum      letters and digits; gwk_[0-9A-Za-z]{38}

The 32 are random, some 190 bits. The checksum is the CRC-32 of all before it: no secret, but what is mistyped or cut
off is known as that without asking anybody, and who scans sources for secrets can tell a key from what only looks like
one.

The store keeps the SHA-256 of a key and finds it by that: a leaked database holds nothing that can be presented, and
how long a look-up takes tells of a digest, from which nobody comes to a key.
"""

import hashlib
import re
import secrets
import string
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, NamedTuple, Protocol

from gateway.identity.accounts import Actor
from gateway.identity.records import UserRecord

PREFIX: Final = "gwk_"
MAX_KEYS: Final = 100  # of one account, those that were deleted a moment ago included
_LETTERS: Final = string.digits + string.ascii_uppercase + string.ascii_lowercase
_RANDOM: Final = 32
_CHECKSUM: Final = 6  # 62 ** 6 > 2 ** 32
_TEXT: Final = re.compile(rb"gwk_[0-9A-Za-z]{38}").fullmatch


def new_key() -> str:
    """The text of a new key."""
    text = PREFIX + "".join(secrets.choice(_LETTERS) for _ in range(_RANDOM))
    return text + _checksum(text.encode("ascii"))


def key_digest(presented: bytes) -> bytes | None:
    """What the store knows this key by; None for what cannot be a key."""
    if _TEXT(presented) is None or _checksum(presented[:-_CHECKSUM]).encode("ascii") != presented[-_CHECKSUM:]:
        return None
    return hashlib.sha256(presented).digest()


def _checksum(text: bytes) -> str:
    number, letters = zlib.crc32(text), ""
    for _ in range(_CHECKSUM):
        number, index = divmod(number, len(_LETTERS))
        letters = _LETTERS[index] + letters
    return letters


class ApiKey(NamedTuple):
    """A key as its owner sees it; the text of it is shown once, when it is made. `roles` are those that it may have at
    most; `expires_at` None: it does not expire. `last_used_at` is some minutes behind at most."""

    id: str
    name: str
    roles: frozenset[str]
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None


@dataclass(frozen=True, slots=True)
class NewApiKey:
    """A key to be made by the session `session_id` of its owner."""

    id: str
    user_id: str
    session_id: str
    digest: bytes = field(repr=False)
    name: str
    roles: frozenset[str]
    expires_at: datetime | None


class KnownKey(NamedTuple):
    """A key as whoever is presented one must know it. `has_ended`: it was deleted a moment ago."""

    id: str
    user_id: str
    roles: frozenset[str]
    expires_at: datetime | None
    has_ended: bool


class KeyReader(Protocol):
    """Where presented keys are looked up. Both methods raise StorageUnavailable."""

    async def known(self, digests: Sequence[bytes]) -> Mapping[bytes, KnownKey]:
        """The keys of these digests, by their digests; there is none of those that are left out."""

    async def note_uses(self, uses: Mapping[str, datetime]) -> None:
        """Write down when keys were last used, by their ids. More often than once a minute for one of them it is not
        done."""


class ApiKeyStore(Protocol):
    """The keys of accounts. All methods raise StorageUnavailable."""

    async def living(self, user_id: str) -> tuple[ApiKey, ...]:
        """The keys of a user that have neither been deleted nor expired, the newest first."""

    async def create(self, key: NewApiKey, *, by: Actor) -> ApiKey | None:
        """Make a key. None, and nothing done: its owner was disabled or is gone by now, or the session has ended.
        Raises Refusal("too_many_api_keys")."""

    async def end(self, user_id: str, key_id: str, *, known_until: datetime, by: Actor) -> UserRecord | None:
        """Delete one of the keys that `living` names; None, and nothing done, where it is not one of those. Until
        `known_until` a copy of it may be believed somewhere: for that long its end is in the record of the user."""
