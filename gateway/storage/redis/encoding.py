"""The format of user records and messages in Redis, and their authentication.

    record     VERSION MAC LIFETIME ASKED JSON
    message    MAC JSON

VERSION is the record's. LIFETIME is the milliseconds for which it is valid after its read from the database. ASKED is
the time of that read, in milliseconds since the epoch by the writer's clock. JSON is the record, or null for a deleted
user. The MAC covers the name of the key or channel and everything but itself. A client that can write to Redis
therefore cannot forge a record or move one to another user. It can restore an old one. LIFETIME and ASKED limit the
time for which an old record is accepted, also if the client changes the expiry of the key.
"""

import json
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any, Final, NamedTuple

from gateway.errors import GatewayError
from gateway.identity.signing_keys import MacKeys
from gateway.identity.user import UserRecord

GONE: Final = (1 << 53) - 1  # newer than any record; the largest integer that Lua represents exactly
# Bytes. The longest record of a user lists a few thousand ended sessions. Longer values are not read from Redis.
MAX_VALUE: Final = 1 << 20


class NotAuthentic(GatewayError):
    """No key of this gateway made the MAC."""


class Shared(NamedTuple):
    """A stored record, and the seconds since its read from the database."""

    record: UserRecord
    age: float


class RedisValues:
    """Encodes and decodes values. `wall_clock` returns seconds since the epoch."""

    def __init__(self, keys: MacKeys, *, wall_clock: Callable[[], float] = time.time) -> None:
        self._keys = keys
        self._wall_clock = wall_clock

    def record(self, key: str, record: UserRecord | None, *, lifetime: float, age: float) -> bytes:
        """Encode a record that was read from the database `age` seconds ago; None: the user is deleted."""
        version = b"%d" % (GONE if record is None else record.version)
        asked_at = (self._wall_clock() - age) * 1000
        rest = b"%d %d %b" % (lifetime * 1000, asked_at, _encoded(record))
        mac = self._keys.sign(key, b"%b %b" % (version, rest))
        return b"%b %b %b" % (version, mac, rest)

    def read_record(self, key: str, value: bytes, left: int) -> Shared | None:
        """Decode a value that Redis keeps for `left` more milliseconds. Raises NotAuthentic.

        None: the user is deleted, or another release of the gateway wrote the value in another format.
        """
        version, mac, rest = _parts(value, 3)
        if not self._keys.verifies(key, b"%b %b" % (version, rest), mac):
            raise NotAuthentic(key)
        try:
            lifetime, asked_at, text = rest.split(b" ", 2)
            record = _decoded(json.loads(text), int(version))
            # All replicas see Redis's clock, but other clients can change the expiry of a key. ASKED is authentic, but
            # the clocks of replicas differ. The larger of the two ages is the safe one.
            by_redis, by_clock = (int(lifetime) - left) / 1000, self._wall_clock() - int(asked_at) / 1000
        except (ValueError, TypeError, KeyError):
            return None
        return Shared(record, max(by_redis, by_clock, 0.0))

    def message(self, channel: str, members: list[Any]) -> bytes:
        """Encode a message for a channel."""
        text = json.dumps(members).encode("ascii")
        return b"%b %b" % (self._keys.sign(channel, text), text)

    def read_message(self, channel: str, message: bytes) -> Any:
        """Decode a message. Raises NotAuthentic."""
        mac, text = _parts(message, 2)
        if not self._keys.verifies(channel, text, mac):
            raise NotAuthentic(channel)
        return json.loads(text)


def _parts(value: bytes, count: int) -> list[bytes]:
    parts = value.split(b" ", count - 1)
    if len(parts) != count:
        raise NotAuthentic("no MAC")
    return parts


def _encoded(record: UserRecord | None) -> bytes:
    if record is None:
        return b"null"
    members = {
        "id": record.id,
        "email": record.email,
        "active": record.is_active,
        "roles": sorted(record.roles),
        "created": record.created_at.isoformat(),
        "ended": sorted(record.ended_sessions),
        "verified": record.email_verified,
        "password": record.has_password,
    }
    return json.dumps(members, separators=(",", ":")).encode("ascii")


def _decoded(members: dict[str, Any], version: int) -> UserRecord:
    """Build the record. Raises ValueError, TypeError or KeyError if a member is missing or of another type."""
    created_at = datetime.fromisoformat(members["created"])
    if created_at.tzinfo is None:
        raise ValueError("a time without its zone")
    return UserRecord(
        id=_typed(members["id"], str),
        email=_typed(members["email"], str),
        is_active=_typed(members["active"], bool),
        roles=_strings(members["roles"]),
        created_at=created_at,
        version=version,
        ended_sessions=_strings(members["ended"]),
        email_verified=_typed(members["verified"], bool),
        has_password=_typed(members["password"], bool),
    )


def _strings(values: Any) -> frozenset[str]:
    return frozenset(_typed(value, str) for value in _typed(values, list))


def _typed(value: Any, kind: type[Any]) -> Any:
    if type(value) is not kind:
        raise TypeError(f"{kind.__name__} expected")
    return value
