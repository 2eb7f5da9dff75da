"""Who a request is made for, with everything about it that depends on the user alone worked out in advance.

A principal is made when a user's record is read and used for many requests, so it holds the roles with what they imply
and the identity headers as the bytes that go out. There may be a hundred thousand of them: each is one object, and the
sets of roles, of which there are few, are shared.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final, NamedTuple

from gateway.identity.records import Claims, UserRecord
from gateway.settings.model import IdentitySettings

_Limits = tuple[frozenset[str] | None, str]  # roles and e-mail address
Expand = Callable[[frozenset[str]], frozenset[str]]

_ROLE_SETS: Final = 4096  # distinct sets of roles to remember
_WAYS: Final = 16  # distinct ways for one principal to act in; a user with more API keys than that pays for it
_NOBODY: Final[frozenset[str]] = frozenset()

# A value goes out as visible ASCII. Anything else, and what would make two values alike, is percent-encoded.
_PLAIN: Final = re.compile(r"[!-$&-~]*").fullmatch
_ESCAPED: Final = tuple(
    b"%%%02X" % byte if byte == 0x25 or not 0x21 <= byte <= 0x7E else bytes((byte,)) for byte in range(256)
)


class Principal:
    """An identity that may be admitted. `own_roles` are the user's own, `roles` those and all they imply.

    `header_lines` are the identity headers, ready to be sent (b"X-User-Id: 42\\r\\n..."). `ended_sessions` are the
    sessions of this user whose tokens are void. `acting` are the principals made of this one for claims that bring
    their own roles, `assertions` what upstreams are shown, by their names, with the time to renew it; both are as old
    as the principal, and go with it.
    """

    __slots__ = (
        "_created_at",
        "acting",
        "assertions",
        "email",
        "ended_sessions",
        "header_lines",
        "id",
        "is_active",
        "own_roles",
        "roles",
        "version",
    )

    def __init__(self, record: UserRecord, roles: "RoleSet", header_lines: bytes) -> None:
        self.id = record.id
        self.email = record.email
        self.is_active = record.is_active
        self.own_roles = roles.own
        self.roles = roles.expanded
        self.ended_sessions = record.ended_sessions or _NOBODY
        self.header_lines = header_lines
        self.version = record.version
        self._created_at = record.created_at
        self.acting: dict[_Limits, Principal] | None = None
        self.assertions: dict[str, tuple[float, bytes]] | None = None

    @property
    def record(self) -> UserRecord:
        """The record this principal was made from. It is put together anew: nobody on the hot path asks for it."""
        return UserRecord(
            id=self.id,
            email=self.email,
            is_active=self.is_active,
            roles=self.own_roles,
            created_at=self._created_at,
            version=self.version,
            ended_sessions=self.ended_sessions,
        )

    def __repr__(self) -> str:
        return f"Principal({self.id!r})"


class RoleSet(NamedTuple):
    """A set of roles, what it implies, and the header line that says so; one of each for all who have these roles."""

    own: frozenset[str]
    expanded: frozenset[str]
    line: bytes


class PrincipalFactory:
    """Makes principals. `expand` adds the implied roles to a set of roles.

    Every principal has a line for its id and one for its roles, even if it has none: "no roles" is then not "no
    identity". One without an e-mail address has no line for it.
    """

    def __init__(self, settings: IdentitySettings, expand: Expand) -> None:
        self._headers = settings.headers
        self._expand = expand
        self._role_sets: dict[frozenset[str], RoleSet] = {}

    def make(self, record: UserRecord) -> Principal:
        """The principal of one of the gateway's own users."""
        roles = self._role_sets.get(record.roles) or self._learn(record.roles)
        lines = _line(self._headers.id, identity_value(record.id))
        if record.email:
            lines += _line(self._headers.email, identity_value(record.email))
        return Principal(record, roles, lines + roles.line)

    def acting(self, principal: Principal, claims: Claims) -> Principal:
        """The principal as far as these claims let it act, where they bring roles: those of an external issuer's token
        are all that its subject has; those of an API key are what is left of its owner's.

        It is made once for each of the few ways a principal acts in, and kept with it.
        """
        ways, limits = principal.acting, (claims.roles, claims.email)
        acting = None if ways is None else ways.get(limits)
        if acting is None:
            if ways is None or len(ways) >= _WAYS:
                ways = principal.acting = {}
            acting = ways[limits] = self._limited(principal, claims)
        return acting

    def _limited(self, principal: Principal, claims: Claims) -> Principal:
        given = claims.roles or _NOBODY
        if claims.is_external:
            return self.make(replace(principal.record, roles=given, email=claims.email))
        # What the owner's roles imply is the owner's as well, and a key may be limited to just that.
        return self.make(replace(principal.record, roles=principal.roles & given))

    def _learn(self, own: frozenset[str]) -> RoleSet:
        if len(self._role_sets) >= _ROLE_SETS:
            self._role_sets.clear()
        expanded = self._expand(own)
        roles = RoleSet(own, expanded, _line(self._headers.roles, identity_roles(expanded)))
        self._role_sets[own] = roles
        return roles


def identity_value(text: str) -> bytes:
    """A value as it stands in an identity header: visible ASCII; everything else, and `%`, percent-encoded."""
    if _PLAIN(text):
        return text.encode("ascii")
    # A claim can hold half of a surrogate pair, which no encoding knows; that must not be an exception.
    return b"".join([_ESCAPED[byte] for byte in text.encode("utf-8", "surrogatepass")])


def identity_roles(roles: Iterable[str]) -> bytes:
    """Roles as they stand in the identity header: sorted, joined by `,`, which no role can smuggle in."""
    return b",".join([identity_value(role).replace(b",", b"%2C") for role in sorted(roles)])


def _line(name: str, value: bytes) -> bytes:
    return b"%b: %b\r\n" % (name.encode("ascii"), value)
