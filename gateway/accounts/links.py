"""One-time links: the values that mails carry, and the kinds that never stand for each other.

    token = "gwl_" + 32 characters + 6 characters of checksum      letters and digits; gwl_[0-9A-Za-z]{38}

A token has the form of an API key: 190 random bits and a CRC-32, which rejects truncated tokens without a query. The
store keeps only its SHA-256 digest. A link carries no data and no signature: kind, account, address and expiry are in
its row, and the transaction that does its work marks the row as used.
"""

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal, NamedTuple, Protocol

from gateway.accounts.emails import EmailAddress
from gateway.accounts.store import NewSession, NewUser
from gateway.errors import Refusal
from gateway.identity.opaque import is_opaque, new_opaque
from gateway.identity.user import Actor, UserRecord
from gateway.settings.model import PageSettings, Settings

PREFIX: Final = "gwl_"

# verify: proves the address of an account. register: creates an account for an address. email: changes an address.
LinkKind = Literal["verify", "register", "email", "reset", "invitation"]

VERIFYING: Final[frozenset[LinkKind]] = frozenset(("verify", "register", "email"))
RESETTING: Final[frozenset[LinkKind]] = frozenset(("reset",))
INVITING: Final[frozenset[LinkKind]] = frozenset(("invitation",))


def new_link() -> str:
    """The token of a new link."""
    return new_opaque(PREFIX)


def link_digest(token: str) -> bytes | None:
    """The digest under which the store keeps a link; None for malformed text."""
    presented = token.encode("utf-8", "surrogatepass")
    return hashlib.sha256(presented).digest() if is_opaque(presented, PREFIX) else None


def link_invalid(reason: str) -> Refusal:
    """One answer for links that are unknown, used, expired, void or of another kind."""
    return Refusal("link_invalid", reason)


_PAGES: Final[Mapping[LinkKind, str]] = {
    "verify": "verify",
    "register": "verify",
    "email": "verify",
    "reset": "reset",
    "invitation": "invitation",
}


def link_address(settings: Settings, kind: LinkKind, token: str) -> str:
    """The address that a link opens: of the configured page, or of the gateway's own.

    It begins with `server.public_url` or a configured origin, never with the Host of a request, which a client chooses.
    """
    pages, name = settings.accounts.pages or PageSettings(), _PAGES[kind]
    written: str | None = getattr(pages.urls, name)
    if written is not None:
        return written.replace("{token}", token)
    return f"{(settings.server.public_url or '').rstrip('/')}{pages.path}/{name}?token={token}"


class LinkLifetimes(NamedTuple):
    """The lifetimes of links in seconds."""

    verify: float
    reset: float
    invitation: float

    @classmethod
    def of(cls, settings: Settings) -> "LinkLifetimes":
        accounts = settings.accounts
        return cls(accounts.email.link_ttl, accounts.password.reset_ttl, accounts.invitations.ttl)

    def seconds(self, kind: LinkKind) -> float:
        match kind:
            case "verify" | "register" | "email":
                return self.verify
            case "reset":
                return self.reset
            case "invitation":
                return self.invitation


@dataclass(frozen=True, slots=True)
class Link:
    """A link that can still be used.

    email: the address that the link was sent to.
    user_id: the account, None for a link that creates one.
    is_verified: the account's address is verified.
    data: its purpose, such as the roles and the author of an invitation.
    """

    id: str
    digest: bytes = field(repr=False)
    kind: LinkKind
    user_id: str | None
    email: str
    canonical: str
    expires_at: datetime
    is_verified: bool
    data: Mapping[str, Any]


class Invitation(NamedTuple):
    """An open invitation. `by` is a user id, `NAME|SUB` or `command-line`."""

    id: str
    email: str
    roles: frozenset[str]
    by: str
    created_at: datetime
    expires_at: datetime


class LinkStore(Protocol):
    """Links and the changes that they make. Every change uses the link in its own transaction, so of concurrent
    attempts one succeeds; the others get None. All methods raise StorageUnavailable."""

    async def find(self, digest: bytes, kinds: Collection[LinkKind]) -> Link | None:
        """A link of these kinds that can be used. Changes nothing."""

    async def verify(self, link: Link, *, by: Actor) -> UserRecord | None:
        """Mark the address of the account as verified."""

    async def claim(self, link: Link, password_hash: str, *, by: Actor) -> UserRecord | None:
        """Verify the address of an unverified account, remove everything that was added to the account before, and set
        this password."""

    async def reset(self, link: Link, password_hash: str, *, by: Actor) -> UserRecord | None:
        """Replace the password, end every session and API key, and void every other link of the account.

        An account whose address was unverified is claimed, like `claim` does.
        """

    async def change_email(self, link: Link, *, by: Actor) -> UserRecord | None:
        """Change the address of the account to that of the link."""

    async def register(
        self, link: Link, user: NewUser, *, by: Actor, admin_roles: Collection[str], session: NewSession | None
    ) -> UserRecord | None:
        """Create the account of a registration or an invitation, with its first session.

        None also for an invitation whose author holds none of `admin_roles` any more. Raises
        Refusal("account_exists") if the address has an account.
        """

    async def join(
        self, link: Link, user_id: str, roles: frozenset[str], *, by: Actor, admin_roles: Collection[str]
    ) -> UserRecord | None:
        """Add the roles of an invitation to the account with its address. An unverified account is claimed, and keeps
        no password."""

    async def issue_reset(self, user_id: str, *, lifetime: float, deliver: bool, by: Actor) -> str | None:
        """Create a link that resets the password of an active account, and mail it if `deliver`. Returns its token,
        None if there is no such account."""


class InvitationStore(Protocol):
    """Open invitations. All methods raise StorageUnavailable."""

    async def invite(
        self, email: EmailAddress, roles: frozenset[str], *, lifetime: float, deliver: bool, by: Actor
    ) -> tuple[Invitation, str] | None:
        """Create an invitation, and void earlier ones of the address. Returns it with its token.

        None if the address has an account.
        """

    async def open_invitations(self) -> tuple[Invitation, ...]:
        """The open invitations, newest first. Their number is bounded."""

    async def withdraw(self, invitation_id: str, *, by: Actor) -> bool:
        """Void an invitation. False if no open invitation has this id."""
