"""The form of user records and messages in Redis, and their authentication.

    record     VERSION MAC LIFETIME ASKED JSON
    message    MAC JSON

VERSION is the record's, LIFETIME the milliseconds it lives after the database was asked, ASKED that moment in
milliseconds since the epoch by the writer's clock, JSON the record or null for a user who is gone. The MAC covers the
name of the key or channel and everything but itself. A client that can write to Redis therefore cannot make a record,
nor move one to another user. It can put an old one back. LIFETIME and ASKED bound the time for which that works,
also where the client gives the key another end.
"""

import json
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any, Final, NamedTuple

from gateway.errors import GatewayError
from gateway.identity.mac_keys import MacKeys
from gateway.identity.records import UserRecord

GONE: Final = (1 << 53) - 1  # newer than any record; the largest integer that Lua counts exactly
# Bytes. The longest record of a user has a few thousand ended sessions; no more than this is read from Redis.
MAX_VALUE: Final = 1 << 20


class NotAuthentic(GatewayError):
    """No key of this gateway made the MAC."""


class Shared(NamedTuple):
    """A record as it was found, and the seconds since the database was asked for it."""

    record: UserRecord
    age: float


class RedisValues:
    """Writes and reads values. `wall_clock` gives seconds since the epoch."""

    def __init__(self, keys: MacKeys, *, wall_clock: Callable[[], float] = time.time) -> None:
        self._keys = keys
        self._wall_clock = wall_clock

    def record(self, key: str, record: UserRecord | None, *, lifetime: float, age: float) -> bytes:
        """The value for a record that was asked of the database `age` seconds ago; None: the user is gone."""
        version = b"%d" % (GONE if record is None else record.version)
        asked_at = (self._wall_clock() - age) * 1000
        rest = b"%d %d %b" % (lifetime * 1000, asked_at, _encoded(record))
        mac = self._keys.sign(key, b"%b %b" % (version, rest))
        return b"%b %b %b" % (version, mac, rest)

    def read_record(self, key: str, value: bytes, left: int) -> Shared | None:
        """The record in a value that Redis keeps for `left` more milliseconds. None: the user is gone, or a release of
        the gateway wrote it that has another form. Raises NotAuthentic."""
        version, mac, rest = _parts(value, 3)
        if not self._keys.verifies(key, b"%b %b" % (version, rest), mac):
            raise NotAuthentic(key)
        try:
            lifetime, asked_at, text = rest.split(b" ", 2)
            record = _decoded(json.loads(text), int(version))
            # Redis's clock is the same for all replicas, but other clients can set the end of a key. ASKED is
            # authentic, but the clocks of replicas differ. The larger age is the safe one.
            by_redis, by_clock = (int(lifetime) - left) / 1000, self._wall_clock() - int(asked_at) / 1000
        except (ValueError, TypeError, KeyError):
            return None
        return Shared(record, max(by_redis, by_clock, 0.0))

    def message(self, channel: str, members: list[Any]) -> bytes:
        """A message for a channel."""
        text = json.dumps(members).encode("ascii")
        return b"%b %b" % (self._keys.sign(channel, text), text)

    def read_message(self, channel: str, message: bytes) -> Any:
        """The content of a message. Raises NotAuthentic."""
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
    }
    return json.dumps(members, separators=(",", ":")).encode("ascii")


def _decoded(members: dict[str, Any], version: int) -> UserRecord:
    """The record. Raises ValueError, TypeError or KeyError where a member is missing or of another type."""
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
    )


def _strings(values: Any) -> frozenset[str]:
    return frozenset(_typed(value, str) for value in _typed(values, list))


def _typed(value: Any, kind: type[Any]) -> Any:
    if type(value) is not kind:
        raise TypeError(f"{kind.__name__} expected")
    return value
