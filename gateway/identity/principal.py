"""Principals: authenticated users, with everything that depends on the user alone computed in advance.

A principal is created when a user record is read, and serves many requests. It contains the expanded roles and the
serialized identity headers. A process can hold a hundred thousand principals, so each is one object and the few
distinct role sets are shared.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final, NamedTuple

from gateway.errors import Refusal, reauthentication_required
from gateway.identity.user import Claims, UserRecord
from gateway.settings.model import EmailSettings, IdentitySettings

_Limits = tuple[frozenset[str] | None, str]  # roles and email address
Expand = Callable[[frozenset[str]], frozenset[str]]

_ROLE_SETS: Final = 4096  # Distinct sets of roles in the cache.
_WAYS: Final = 16  # Distinct scopes cached per principal. A user with more API keys pays for recomputing.
_EMPTY: Final[frozenset[str]] = frozenset()

# Values are visible ASCII. Other characters and characters that would make two values equal are percent-encoded.
_PLAIN: Final = re.compile(r"[!-$&-~]*").fullmatch
_ESCAPED: Final = tuple(
    b"%%%02X" % byte if byte == 0x25 or not 0x21 <= byte <= 0x7E else bytes((byte,)) for byte in range(256)
)


class Principal:
    """An authenticated user. `own_roles` are the user's own roles, `roles` also contains implied ones.

    `forwarded_email` is the address that upstreams receive, "" for none. `header_lines` are the serialized identity
    headers (b"X-User-Id: 42\\r\\n..."). `ended_sessions` are sessions whose tokens are void. `scoped_to` caches
    restricted principals for claims that carry roles; `assertions` caches signed assertions by upstream and session,
    with their renewal time. Both live as long as the principal.
    """

    __slots__ = (
        "_created_at",
        "assertions",
        "email",
        "email_verified",
        "ended_sessions",
        "forwarded_email",
        "has_password",
        "header_lines",
        "id",
        "is_active",
        "own_roles",
        "roles",
        "scoped_to",
        "version",
    )

    def __init__(self, record: UserRecord, roles: "RoleSet", header_lines: bytes, *, forwarded_email: str) -> None:
        self.id = record.id
        self.email = record.email
        self.email_verified = record.email_verified
        self.forwarded_email = forwarded_email
        self.has_password = record.has_password
        self.is_active = record.is_active
        self.own_roles = roles.own
        self.roles = roles.expanded
        self.ended_sessions = record.ended_sessions or _EMPTY
        self.header_lines = header_lines
        self.version = record.version
        self._created_at = record.created_at
        self.scoped_to: dict[_Limits, Principal] | None = None
        self.assertions: dict[tuple[str, str, float], tuple[float, bytes]] | None = None

    @property
    def record(self) -> UserRecord:
        """The record of this principal, reconstructed on each access. The hot path does not use it."""
        return UserRecord(
            id=self.id,
            email=self.email,
            is_active=self.is_active,
            roles=self.own_roles,
            created_at=self._created_at,
            version=self.version,
            ended_sessions=self.ended_sessions,
            email_verified=self.email_verified,
            has_password=self.has_password,
        )

    def __repr__(self) -> str:
        return f"Principal({self.id!r})"


class RoleSet(NamedTuple):
    """A set of roles, its expansion and its header line, shared by all principals with these roles."""

    own: frozenset[str]
    expanded: frozenset[str]
    line: bytes


class PrincipalFactory:
    """Creates principals. `expand` adds implied roles.

    Every principal has a header line for its id and one for its roles, even if the set is empty: an upstream can
    distinguish "no roles" from "no identity". Without an email address to forward the email line is omitted.
    `only_verified`: unverified addresses are not forwarded, because an upstream would take the claim of a user for a
    fact.
    """

    def __init__(self, settings: IdentitySettings, expand: Expand, *, only_verified: bool = False) -> None:
        self._headers = settings.headers
        self._only_verified = only_verified
        self._expand = expand
        self._role_sets: dict[frozenset[str], RoleSet] = {}

    def make(self, record: UserRecord) -> Principal:
        """The principal for a user record."""
        roles = self._role_sets.get(record.roles) or self._learn(record.roles)
        lines = _line(self._headers.id, identity_value(record.id))
        email = forwarded_email(record, only_verified=self._only_verified)
        if email:
            lines += _line(self._headers.email, identity_value(email))
        if self._headers.email_verified is not None:
            lines += _line(self._headers.email_verified, b"true" if record.email_verified else b"false")
        return Principal(record, roles, lines + roles.line, forwarded_email=email)

    def scoped_to(self, principal: Principal, claims: Claims) -> Principal:
        """The principal restricted by claims that carry roles: an external token's roles are the only roles of its
        subject; an API key's roles limit those of its owner.

        Results are cached with the principal, one per combination of roles and address.
        """
        ways, limits = principal.scoped_to, (claims.roles, claims.email)
        acting = None if ways is None else ways.get(limits)
        if acting is None:
            if ways is None or len(ways) >= _WAYS:
                ways = principal.scoped_to = {}
            acting = ways[limits] = self._limited(principal, claims)
        return acting

    def _limited(self, principal: Principal, claims: Claims) -> Principal:
        given = claims.roles or _EMPTY
        if claims.is_external:
            return self.make(replace(principal.record, roles=given, email=claims.email))
        # Roles implied by the owner's roles are included: a key can be limited to an implied role.
        return self.make(replace(principal.record, roles=principal.roles & given))

    def _learn(self, own: frozenset[str]) -> RoleSet:
        if len(self._role_sets) >= _ROLE_SETS:
            self._role_sets.clear()
        expanded = self._expand(own)
        roles = RoleSet(own, expanded, _line(self._headers.roles, identity_roles(expanded)))
        self._role_sets[own] = roles
        return roles


def forwards_only_verified(settings: EmailSettings) -> bool:
    """The meaning of `accounts.email.forward`."""
    return settings.forward == "verified" or (settings.forward == "auto" and settings.verification != "none")


def forwarded_email(record: UserRecord, *, only_verified: bool) -> str:
    """The address that upstreams receive. That of an external subject comes from its issuer."""
    return record.email if not only_verified or record.email_verified or "|" in record.id else ""


def identity_value(text: str) -> bytes:
    """Encode a value for an identity header: visible ASCII; everything else, and `%`, is percent-encoded."""
    if _PLAIN(text):
        return text.encode("ascii")
    # JSON strings in claims can contain lone surrogates, which strict UTF-8 cannot encode.
    return b"".join([_ESCAPED[byte] for byte in text.encode("utf-8", "surrogatepass")])


def identity_roles(roles: Iterable[str]) -> bytes:
    """Encode roles for the identity header: sorted and joined by `,`, which is escaped inside names."""
    return b",".join([identity_value(role).replace(b",", b"%2C") for role in sorted(roles)])


def _line(name: str, value: bytes) -> bytes:
    return b"%b: %b\r\n" % (name.encode("ascii"), value)


# Freshness of sensitive requests: a recent authentication (RFC 9470).
#
# A stolen token or cookie is valid for a while, and a new password or API key would extend the access of the thief.
# API keys and tokens of external issuers say nothing about an authentication, so they are never fresh.
def not_fresh(claims: Claims, max_age: float, *, now: float, leeway: float) -> Refusal | None:
    """The refusal of a credential whose authentication is not recent enough, None if it is. Times are in seconds."""
    if claims.auth_time and now - claims.auth_time <= max_age + leeway:
        return None
    reason = f"authenticated {now - claims.auth_time:.0f} s ago" if claims.auth_time else "no authentication is known"
    return reauthentication_required(max_age, reason)
