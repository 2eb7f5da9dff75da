"""API keys: bearer credentials for machines, created by a user.

    key  = "gwk_" + 32 characters + 6 characters of checksum      letters and digits; gwk_[0-9A-Za-z]{38}

The store keeps the SHA-256 digest of a key and looks keys up by it. A leaked database contains no usable key, and
lookup timing reveals only information about a digest.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, NamedTuple, Protocol

from gateway.identity.opaque import is_opaque, new_opaque
from gateway.identity.user import Actor, UserRecord

PREFIX: Final = "gwk_"
MAX_KEYS: Final = 100  # Per account, including recently deleted keys.


def new_key() -> str:
    return new_opaque(PREFIX)


def key_digest(presented: bytes) -> bytes | None:
    """The digest under which the store keeps a key; None for malformed text."""
    return hashlib.sha256(presented).digest() if is_opaque(presented, PREFIX) else None


class ApiKey(NamedTuple):
    """A key as shown to its owner. The secret itself is shown only on creation. `roles` limits the key's roles;
    `expires_at` is None for keys that do not expire. `last_used_at` lags by a few minutes."""

    id: str
    name: str
    roles: frozenset[str]
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None


@dataclass(frozen=True, slots=True)
class NewApiKey:
    """A key to create for `user_id`, requested in session `session_id`."""

    id: str
    user_id: str
    session_id: str
    digest: bytes = field(repr=False)
    name: str
    roles: frozenset[str]
    expires_at: datetime | None


class KnownKey(NamedTuple):
    """A key as needed for verification. `has_ended` marks a recently deleted key."""

    id: str
    user_id: str
    roles: frozenset[str]
    expires_at: datetime | None
    has_ended: bool


class KeyReader(Protocol):
    """Lookup of presented keys. Both methods raise StorageUnavailable."""

    async def known(self, digests: Sequence[bytes]) -> Mapping[bytes, KnownKey]:
        """The keys with these digests, by digest. Unknown digests are absent."""

    async def note_uses(self, uses: Mapping[str, datetime]) -> None:
        """Record the last use of keys, by id. Written at most once a minute per key."""


class ApiKeyStore(Protocol):
    """The API keys of accounts. All methods raise StorageUnavailable."""

    async def living(self, user_id: str) -> tuple[ApiKey, ...]:
        """The valid keys of a user, newest first."""

    async def create(self, key: NewApiKey, *, by: Actor) -> ApiKey | None:
        """Create a key.

        Returns None and changes nothing if the owner was disabled or deleted, or the session has ended. Raises
        Refusal("too_many_api_keys").
        """

    async def end(self, user_id: str, key_id: str, *, known_until: datetime, by: Actor) -> UserRecord | None:
        """Delete a key that `living` returns. Other ids return None and change nothing.

        Cached copies can be valid until `known_until`, so the user's record lists the deleted key until then.
        """
