"""User records, verified claims, authors of changes, and the interfaces of the stores of users."""

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal, NamedTuple, Protocol

from gateway.samples import Sample


@dataclass(frozen=True, slots=True)
class UserRecord:
    """One account as stored in the database, with everything that can revoke access.

    `ended_sessions` are ended sessions whose access tokens can still be unexpired; their tokens are refused. `version`
    increases with every change, so that an older copy never replaces a newer one in a cache. `email_verified`: the user
    has proved to receive mail at the address. `has_password`: the account can sign in with one.
    """

    id: str
    email: str
    is_active: bool
    roles: frozenset[str]
    created_at: datetime
    version: int
    ended_sessions: frozenset[str] = frozenset()
    email_verified: bool = False
    has_password: bool = True


@dataclass(frozen=True, slots=True)
class ClientInfo:
    """The source of a request: client address, User-Agent, and the request id in the logs."""

    address: str = ""
    user_agent: str = ""
    request_id: str = ""


@dataclass(frozen=True, slots=True)
class Actor:
    """The author of a change: a user id, or `command-line` for an operator on the machine."""

    id: str
    origin: ClientInfo = ClientInfo()


COMMAND_LINE = Actor("command-line")


ONE_FACTOR: Final = "aal1"  # the authentication context of one factor
PASSWORD: Final = "pwd"  # noqa: S105 - the authentication method of RFC 8176
CredentialKind = Literal["session", "token", "api_key", "external"]


class Authentication(NamedTuple):
    """The last authentication of the user in a session: its time in seconds since the epoch, its class and its
    methods (RFC 9068 2.2.1, RFC 8176)."""

    time: float
    acr: str
    amr: tuple[str, ...]


def by_password(time: float) -> Authentication:
    """An authentication by password alone."""
    return Authentication(time, ONE_FACTOR, (PASSWORD,))


class Claims(NamedTuple):
    """The claims of a verified credential. `subject` is the user id (`NAME|SUB` for an external issuer), `session` its
    `sid`.

    `expires_at` is in seconds since the epoch, without leeway. `not_before` is the later of `nbf` and `iat`.

    `roles` is None for the gateway's own tokens, whose roles come from the user record. For an external issuer it
    contains the mapped roles. For an API key it limits the owner's roles, and `session` is the key's id: an ended
    session and a deleted key are revoked alike.

    `signed_by` is the key that verified the token. A stream ends when that key is removed.

    `auth_time` (seconds since the epoch, 0 if unknown), `acr` and `amr` describe the authentication of the user (RFC
    9068 2.2.1). They are facts of this credential, and API keys have none. `record_version` is the version of the
    user's record that a session cookie was read with.
    """

    subject: str
    session: str
    expires_at: float
    not_before: float
    token_id: str
    issuer: str
    roles: frozenset[str] | None = None
    email: str = ""
    signed_by: Hashable | None = None
    kind: CredentialKind = "token"
    auth_time: float = 0.0
    acr: str = ""
    amr: tuple[str, ...] = ()
    record_version: int = 0

    @property
    def is_external(self) -> bool:
        """Whether an external issuer asserts the subject, which has no account here. Local ids never contain `|`."""
        return "|" in self.subject


class UserStore(Protocol):
    """The source of user records: the database."""

    async def user(self, user_id: str) -> UserRecord | None:
        """The record, or None if the user does not exist. Raises StorageUnavailable within 250 ms if the store hangs;
        waiting for a free connection can take longer."""


class SharedCache(Protocol):
    """The cache that replicas share (Redis). Outages raise no errors: reads return None and writes are dropped."""

    async def get(self, user_id: str) -> tuple[UserRecord, float] | None:
        """The record and its remaining lifetime in seconds; None for a miss or an outage."""

    async def put(self, record: UserRecord, *, age: float) -> None:
        """Cache a record read from the database `age` seconds ago until it is `cache.user_ttl` old, unless the cache
        has a newer version."""


class ChangeListener(Protocol):
    """A holder of cached user records: the directory."""

    def forget(self, user_id: str, version: int | None) -> None:
        """Invalidate copies of this user older than `version`; None: all copies."""

    def suspend(self) -> None:
        """Invalidate local copies, because changes arrive late. No change is lost, so shared copies stay valid."""

    def flush(self) -> None:
        """Invalidate every copy read before now, in all caches, because changes can have been lost."""


class ChangeFeed(Protocol):
    """Publishes changes of users to every replica."""

    async def announce(self, user_id: str, record: UserRecord | None) -> None:
        """Invalidate older copies of this user on all replicas, including this one; None means that the user was
        deleted.

        On this replica the change is effective when the call returns. A store that is down raises no error.
        """

    @property
    def connected(self) -> bool:
        """Whether changes made elsewhere reach this process. While False, local copies must not be used."""

    def samples(self) -> Iterable[Sample]:
        """Propagation delays of changes."""


def claim_path(claims: Mapping[str, Any], path: str | tuple[str, ...]) -> Any:
    """The value at a path of the claims, or None. The path is dotted (`realm_access.roles`) or a tuple of names.

    A claim with the whole dotted name takes precedence: some claims are named by a URL (`https://x.example/roles`).
    """
    if isinstance(path, str) and path in claims:
        return claims[path]
    value: Any = claims
    for name in path.split(".") if isinstance(path, str) else path:
        if not isinstance(value, Mapping):
            return None
        value = value.get(name)
    return value
