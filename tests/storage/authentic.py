"""Keys and values for Redis tests: authentic ones, and forged ones."""

import json
from typing import Any

from gateway.identity.keys import KeyRing, SigningKey
from gateway.identity.signing_keys import MacKeys
from gateway.storage.redis.encoding import RedisValues

SECRET = "the signing key of the gateway under test"
INSTALLATION = "0123456789abcdef"
PREFIX = f"gateway:2:{INSTALLATION}:"
CHANNEL = f"{PREFIX}changes"


def user_key(user_id: str, installation: str = INSTALLATION) -> str:
    """The key of a user's record."""
    return f"gateway:2:{installation}:user:{user_id}"


def ring(*secrets: str) -> KeyRing:
    """The signing keys of a gateway; the first one signs."""
    return KeyRing([SigningKey.from_secret(secret, "HS256", secret) for secret in secrets or (SECRET,)])


def mac_keys(*secrets: str) -> MacKeys:
    return MacKeys(ring(*secrets))


def values(*secrets: str) -> RedisValues:
    return RedisValues(mac_keys(*secrets))


def message(*members: Any) -> bytes:
    """An authentic message."""
    return values().message(CHANNEL, list(members))


def signed(key: str, version: object, rest: str | bytes) -> bytes:
    """An authentic value with any content."""
    rest = rest.encode() if isinstance(rest, str) else rest
    prefix = str(version).encode()
    return prefix + b" " + mac_keys().sign(key, prefix + b" " + rest) + b" " + rest


def authentic_text(text: str) -> bytes:
    """An authentic message with any text."""
    return mac_keys().sign(CHANNEL, text.encode()) + b" " + text.encode()


def old_record(user_id: str, *, roles: list[str], version: int = 9, lifetime: int = 60_000) -> bytes:
    """A record without a MAC, as written by old releases or forged by a client without the key."""
    members = {
        "id": user_id,
        "email": f"{user_id}@example.com",
        "active": True,
        "roles": roles,
        "created": "2026-01-01T00:00:00+00:00",
        "ended": [],
        "verified": False,
        "password": True,
    }
    return f"{version} {lifetime} {json.dumps(members)}".encode()
