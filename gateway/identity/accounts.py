"""What the account service and the store say to each other: values, and the two interfaces of the store.

Every method that changes something does so in one transaction, together with its audit record, raises the user's
version where the record changed, and gives the record as it is afterwards; the caller announces it.
All of them raise StorageUnavailable when the database does not answer in time.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple, Protocol

from gateway.identity.records import UserRecord, UserStore
from gateway.identity.refresh import RefreshToken


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a request came from: the caller's address and User-Agent, and the id the request is logged under."""

    address: str = ""
    user_agent: str = ""
    request_id: str = ""


@dataclass(frozen=True, slots=True)
class Actor:
    """Who makes a change: a user id, or `command-line` for somebody at the machine itself."""

    id: str
    origin: Origin = Origin()


COMMAND_LINE = Actor("command-line")


class Credentials(NamedTuple):
    """What a password is checked against. `password_hash` is bcrypt's own text, cost included; `canonical` is the
    account's address as it is compared."""

    user_id: str
    password_hash: str
    is_active: bool
    canonical: str


@dataclass(frozen=True, slots=True)
class NewUser:
    """An account to be made. `canonical` is the form of the address that no other account may have."""

    id: str
    email: str
    canonical: str
    password_hash: str = field(repr=False)
    roles: frozenset[str]


@dataclass(frozen=True, slots=True)
class NewSession:
    """A session to be opened. Until `access_until` an access token of it may be accepted somewhere: for that long its
    end must be known to everybody. `expires_at` is when its refresh token ends."""

    id: str
    token: RefreshToken
    expires_at: datetime
    access_until: datetime
    origin: Origin


class LivingSession(NamedTuple):
    """A session that has not ended. It was last used when it was opened or last refreshed; `address` and `user_agent`
    are from then. `expires_at` is when its refresh token ends."""

    id: str
    created_at: datetime
    used_at: datetime
    expires_at: datetime
    address: str
    user_agent: str


@dataclass(frozen=True, slots=True)
class Rotation:
    """A refresh token that is presented. `grace` is in seconds; the dates are those of the session afterwards."""

    token: RefreshToken
    grace: float
    expires_at: datetime
    access_until: datetime
    origin: Origin


class Rotated(NamedTuple):
    """The token was good: whose session it is, and its successor."""

    record: UserRecord
    session_id: str
    successor: RefreshToken


class Reused(NamedTuple):
    """A token that was rotated before came back. `record`: the user's, now that the session has been ended for it."""

    record: UserRecord


@dataclass(frozen=True, slots=True)
class Selection:
    """Which users to list. `query` is how their canonical address begins, in whose order they come; or, from an @ on,
    how its domain begins, and then they come in the order of domains. `after` is the canonical address that the last
    page ended with."""

    query: str = ""
    role: str | None = None
    active: bool | None = None
    limit: int = 50
    after: str | None = None


class UserPage(NamedTuple):
    """Some users; `next` is what `after` must be for those that follow, None on the last page."""

    users: tuple[UserRecord, ...]
    next: str | None


class AccountStore(UserStore, Protocol):
    """Users as the account service needs them. The methods that change one give None when there is no such user."""

    async def credentials(self, canonical: str) -> Credentials | None:
        """What to check the password of this address against; None: nobody has it."""

    async def credentials_of(self, user_id: str) -> Credentials | None:
        """The same by user id."""

    async def most_rounds(self) -> int:
        """The rounds of the bcrypt hash that has the most; 0 without one. Reads all accounts."""

    async def by_email(self, canonical: str) -> UserRecord | None:
        """The account of this address."""

    async def page(self, selection: Selection) -> UserPage:
        """The users of one page."""

    async def any_active(self, roles: Collection[str]) -> bool:
        """Whether any active user has one of these roles."""

    async def create(self, user: NewUser, *, by: Actor, session: NewSession | None = None) -> UserRecord:
        """Make an account, and its first session with it. Raises Refusal("email_taken")."""

    async def set_password(
        self, user_id: str, password_hash: str, *, by: Actor, verified: str | None = None, keep: str | None = None
    ) -> UserRecord | None:
        """Replace the password and end every session but `keep`. `verified` is the hash that the old password was
        checked against: where it is no longer the stored one, nothing is done and the answer is None."""

    async def change(
        self,
        user_id: str,
        *,
        is_active: bool | None = None,
        roles: frozenset[str] | None = None,
        by: Actor,
        admin_roles: Collection[str],
    ) -> UserRecord | None:
        """Disable or enable, replace the roles, or both at once; None leaves as it is. Raises Refusal("last_admin")
        where nobody active would be left with one of these."""

    async def delete(self, user_id: str, *, by: Actor, admin_roles: Collection[str]) -> UserRecord | None:
        """Delete the account with all that belongs to it but its audit records; gives the record as it was last.
        Raises Refusal("last_admin") like change."""


class SessionStore(Protocol):
    """Sessions and their refresh tokens."""

    async def open(
        self, user_id: str, session: NewSession, *, verified: str, rehashed: str | None = None
    ) -> UserRecord | None:
        """Open a session for a user whose password was just checked against the hash `verified`; `rehashed` replaces
        that hash. None, and nothing done: the user is gone, was disabled, or has another password by now."""

    async def rotate(self, rotation: Rotation) -> Rotated | Reused | None:
        """Put the successor in the place of a refresh token; the same one for a token that was replaced at most
        `grace` seconds ago, and the end of the session for any older one. None: no token of a living session."""

    async def end(self, user_id: str, session_id: str, *, reason: str, by: Actor) -> UserRecord | None:
        """End one session; None when the user is gone. Ending it twice is no error and changes nothing."""

    async def end_all(
        self, user_id: str, *, reason: str, by: Actor, keys_known_until: datetime | None = None
    ) -> UserRecord | None:
        """End every session of a user; None when the user is gone. With `keys_known_until` every API key ends as well,
        which the user's record tells for that long."""

    async def living(self, user_id: str) -> tuple[LivingSession, ...]:
        """The sessions of a user, the one used last first; their number is bounded."""

    async def end_living(self, user_id: str, session_id: str, *, reason: str, by: Actor) -> UserRecord | None:
        """End a session that `living` names; None, and nothing done, where it is not one of those."""
