"""The types and store interfaces shared by the account service and the database.

Every method that changes data does so in one transaction with its audit record, increments the user's version if the
record changed, and returns the new record, which the service then publishes. All methods raise StorageUnavailable if
the database does not answer in time.

Subjects of external issuers have no account here, but administrators can block them.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, NamedTuple, Protocol

from gateway.accounts.emails import EmailAddress
from gateway.identity.refresh_token import RefreshToken
from gateway.identity.session_cookie import SessionReader
from gateway.identity.user import Actor, Authentication, ClientInfo, UserRecord, UserStore


class StoredPassword(NamedTuple):
    """The data for a password check. `password_hash` is bcrypt's text with its cost, None for an account without a
    password; `canonical` is the account's address in the form used for comparison."""

    user_id: str
    password_hash: str | None
    is_active: bool
    canonical: str
    email_verified: bool = False


@dataclass(frozen=True, slots=True)
class NewUser:
    """An account to create. `canonical` is the form of the address that must be unique."""

    id: str
    email: str
    canonical: str
    password_hash: str | None = field(repr=False)
    roles: frozenset[str]
    email_verified: bool = False


class NewSession(NamedTuple):
    """A session of tokens to open, after an authentication by password.

    No access token of the session is valid after `access_until`: its end must stay visible until then. `expires_at` is
    the expiry of its refresh token.
    """

    id: str
    token: RefreshToken
    expires_at: datetime
    access_until: datetime
    origin: ClientInfo


@dataclass(frozen=True, slots=True)
class NewBrowserSession:
    """A browser session to begin, after an authentication by password. `digest` is that of its cookie. `remember`: it
    has no idle limit."""

    id: str
    digest: bytes = field(repr=False)
    expires_at: datetime
    remember: bool
    origin: ClientInfo


@dataclass(frozen=True, slots=True)
class CookieRenewal:
    """A new cookie for a browser session, after another proof of the password. The `replaced` one stays good for
    `grace` seconds and keeps its own authentication. Both are digests."""

    replaced: bytes = field(repr=False)
    digest: bytes = field(repr=False)
    grace: float


class ActiveSession(NamedTuple):
    """A session that has not ended. `used_at`, `address` and `user_agent` date from its opening or last refresh.
    `expires_at` is the expiry of its refresh token, or of the browser session."""

    id: str
    kind: str
    created_at: datetime
    used_at: datetime
    expires_at: datetime
    address: str
    user_agent: str


class Rotation(NamedTuple):
    """A refresh token presented for rotation. `grace` is in seconds. The dates apply to the session after the
    rotation."""

    token: RefreshToken
    grace: float
    expires_at: datetime
    access_until: datetime
    origin: ClientInfo


class Rotated(NamedTuple):
    """A successful rotation: the user, the session, the new token, and the authentication of the session."""

    record: UserRecord
    session_id: str
    successor: RefreshToken
    authentication: Authentication


class Reused(NamedTuple):
    """The result for a refresh token that was already replaced. `record` is the user's record after the session was
    ended."""

    record: UserRecord


class Selection(NamedTuple):
    """A filter for users.

    `query` is a prefix of the canonical address, and results are ordered by address. A query that starts with @ is a
    prefix of the domain, and results are ordered by domain. `after` is the canonical address of the last user on the
    previous page.
    """

    query: str = ""
    role: str | None = None
    active: bool | None = None
    limit: int = 50
    after: str | None = None


class UserPage(NamedTuple):
    """A page of users. `next` is the `after` of the following page, None on the last page."""

    users: tuple[UserRecord, ...]
    next: str | None


class PasswordEffects(NamedTuple):
    """The effects of a new password on other credentials. Every session but `keep` ends, which gets a new cookie by
    `renewal`. With `keys_known_until` every API key ends, and the user's record lists the keys until that time."""

    keep: str | None = None
    renewal: CookieRenewal | None = None
    keys_known_until: datetime | None = None


ENDS_SESSIONS: Final = PasswordEffects()


class AccountStore(UserStore, Protocol):
    """Users, with the operations of the account service. Methods that change a user return None if it does not
    exist."""

    async def credentials(self, canonical: str) -> StoredPassword | None:
        """The password data for an address; None for an unknown address."""

    async def credentials_of(self, user_id: str) -> StoredPassword | None:
        """The password data for a user id."""

    async def most_rounds(self) -> int:
        """The highest cost of all stored bcrypt hashes, 0 without any. Reads all accounts."""

    async def by_email(self, canonical: str) -> UserRecord | None:
        """The account with this address."""

    async def note_language(self, user_id: str, language: str) -> None:
        """Store the language of the user's mails."""

    async def page(self, selection: Selection) -> UserPage: ...

    async def any_active(self, roles: Collection[str]) -> bool:
        """Whether an active user has one of these roles."""

    async def create(
        self, user: NewUser, *, by: Actor, session: NewSession | None = None, asks_to_verify: bool = False
    ) -> UserRecord:
        """Create an account, optionally with its first session. Raises Refusal("email_taken").

        `asks_to_verify`: a link that verifies the address is mailed.
        """

    async def set_password(
        self,
        user_id: str,
        password_hash: str,
        *,
        by: Actor,
        verified: str | None = None,
        effects: PasswordEffects = ENDS_SESSIONS,
    ) -> UserRecord | None:
        """Replace the password.

        `verified` is the hash that the old password was checked against. If it is no longer the stored hash, nothing
        changes and the result is None.
        """

    async def change(
        self,
        user_id: str,
        *,
        is_active: bool | None = None,
        roles: frozenset[str] | None = None,
        by: Actor,
        admin_roles: Collection[str],
    ) -> UserRecord | None:
        """Change the active state, the roles, or both; None leaves a value unchanged.

        Raises Refusal("last_admin") if no active user would hold one of `admin_roles` afterwards.
        """

    async def set_email(self, user_id: str, email: EmailAddress, *, by: Actor) -> UserRecord | None:
        """Change the address, which is unverified then, and void every link of the account. Raises
        Refusal("email_taken")."""

    async def verify_email(self, user_id: str, *, by: Actor) -> UserRecord | None:
        """Mark the address as verified."""

    async def delete(self, user_id: str, *, by: Actor, admin_roles: Collection[str]) -> UserRecord | None:
        """Delete the account and all its data except audit records; returns the last record.

        Raises Refusal("last_admin") like `change`.
        """


class SessionStore(Protocol):
    """Sessions and refresh tokens."""

    async def open(
        self, user_id: str, session: NewSession, *, verified: str, rehashed: str | None = None
    ) -> UserRecord | None:
        """Open a session after a password check against the hash `verified`; `rehashed` replaces that hash.

        Returns None and changes nothing if the user was deleted or disabled, or has changed the password since the
        check.
        """

    async def rotate(self, rotation: Rotation) -> Rotated | Reused | None:
        """Replace a refresh token with its successor.

        A token replaced at most `grace` seconds ago returns the same successor. An older one ends the session. None
        means that the token belongs to no active session.
        """

    async def reissue(self, user_id: str, session: NewSession) -> UserRecord | None:
        """Replace all refresh tokens of the open session with the id of `session`, after another proof of the password.
        Return None if it has ended."""

    async def end(self, user_id: str, session_id: str, *, reason: str, by: Actor) -> UserRecord | None:
        """End one session; None if the user does not exist. Ending a session twice changes nothing."""

    async def end_all(
        self, user_id: str, *, reason: str, by: Actor, keys_known_until: datetime | None = None
    ) -> UserRecord | None:
        """End every session of a user; None if the user does not exist.

        With `keys_known_until` every API key ends too, and the user's record lists the keys until that time.
        """

    async def living(self, user_id: str) -> tuple[ActiveSession, ...]:
        """The active sessions of a user, most recently used first. Their number is bounded."""

    async def end_living(self, user_id: str, session_id: str, *, reason: str, by: Actor) -> UserRecord | None:
        """End a session that `living` returns. Other ids return None and change nothing."""


class BrowserSessionStore(SessionReader, Protocol):
    """The sessions of browsers, which a cookie identifies."""

    async def begin(
        self, user_id: str, session: NewBrowserSession, *, most: int, verified: str, rehashed: str | None = None
    ) -> UserRecord | None:
        """Begin a session after a password check, like SessionStore.open, and end the oldest beyond `most`."""

    async def renew(self, user_id: str, session_id: str, renewal: CookieRenewal) -> UserRecord | None:
        """Replace the cookie of an open session; None if it has ended."""


class BlockedSubject(NamedTuple):
    """A blocked subject (`NAME|SUB`): the time, the author (a user id or `command-line`), and the reason."""

    subject: str
    at: datetime
    by: str
    reason: str


class SubjectStore(Protocol):
    """The block list of external subjects. All methods raise StorageUnavailable if the database does not answer in
    time."""

    async def user(self, subject: str) -> UserRecord:
        """The subject as a record: active unless blocked. Roles and address come from its tokens."""

    async def blocked(self) -> tuple[BlockedSubject, ...]:
        """All blocked subjects, in alphabetical order."""

    async def block(self, subject: str, reason: str, *, by: Actor) -> UserRecord:
        """Block a subject and write an audit record; returns the new record. Blocking twice changes nothing."""

    async def unblock(self, subject: str, *, by: Actor) -> UserRecord | None:
        """Unblock a subject; None if it is not blocked."""


class AuditRecord(NamedTuple):
    """One change. `subject` is the changed account; `actor` is a user id, `NAME|SUB` or `command-line`. `address` and
    `request_id` come from the request, empty for the command line. `before` and `after` contain the changed values
    only."""

    id: int
    at: datetime
    action: str
    actor: str
    subject: str
    address: str
    request_id: str
    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None


class AuditPlace(NamedTuple):
    """The position of a record in the trail."""

    at: datetime
    id: int


class AuditSelection(NamedTuple):
    """A filter for records, newest first: from `since`, before `until`, and after the position `after`."""

    subject: str | None = None
    actor: str | None = None
    action: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    limit: int = 50
    after: AuditPlace | None = None


class AuditPage(NamedTuple):
    """A page of records. `next` is the `after` of the following page, None on the last page."""

    records: tuple[AuditRecord, ...]
    next: AuditPlace | None


class AuditReader(Protocol):
    """Read access to the audit trail. No interface allows changes."""

    async def page(self, selection: AuditSelection) -> AuditPage:
        """Matching records, newest first. Raises StorageUnavailable."""
