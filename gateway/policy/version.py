"""The policy version: a hash that is equal on every replica with the same policy.

It covers the settings that decide access: `routes` (with shadow rules), `roles`, `upstreams`, `server.paths`,
`server.hosts`, `accounts.prefix` and `accounts.admin_role`, with defaults and placeholders filled in; with `sessions`,
also the origins that can use them and the redirect to the sign-in page. Comments, white space and the order of routes,
keys and roles make no difference. Everything else (ports, stores, keys, tokens) is left out, so the hash reveals no
secret.
"""

import json
from collections.abc import Mapping
from dataclasses import is_dataclass
from enum import Enum
from functools import cache
from hashlib import sha256
from typing import Any, Final

from gateway.settings.declare import Key, declared
from gateway.settings.model import SessionSettings, Settings

LENGTH: Final = 12  # Hexadecimal digits; enough to distinguish the policies of one installation.


def policy_version(settings: Settings) -> str:
    """The version of a policy, LENGTH hexadecimal digits."""
    roles = settings.roles
    covered = {
        "paths": settings.server.paths,
        "prefix": settings.accounts.prefix,
        "admin_role": settings.accounts.admin_role,
        "roles": None if roles is None else {role: sorted(implied) for role, implied in roles.items()},
        "upstreams": {name: _plain(upstream) for name, upstream in settings.upstreams.items()},
        "routes": sorted(_text(_plain(route)) for route in settings.routes),
        **({"hosts": sorted(settings.server.hosts)} if settings.server.hosts else {}),
        **({} if settings.sessions is None else {"sessions": _sessions(settings.sessions, settings)}),
    }
    return sha256(_text(covered).encode()).hexdigest()[:LENGTH]


def _sessions(sessions: SessionSettings, settings: Settings) -> dict[str, Any]:
    origins = sorted({*sessions.origins, settings.server.public_url or ""})
    return {"origins": origins, "sign_in": sessions.sign_in}


def _text(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


@cache
def _keys(kind: type) -> tuple[Key, ...]:
    return tuple(declared(kind).values())


def _plain(value: Any) -> Any:
    """A settings value as JSON data. Keys with default values are left out, so that a new key in a later version
    changes no existing hash."""
    if is_dataclass(value) and not isinstance(value, type):
        return {
            key.attribute: _plain(own)
            for key in _keys(type(value))
            if (own := getattr(value, key.attribute)) != key.default
        }
    match value:
        case Enum():
            return value.name
        case frozenset():
            return sorted(value)
        case tuple():
            return [_plain(each) for each in value]
        case Mapping():
            return {name: _plain(each) for name, each in value.items()}
    return value
