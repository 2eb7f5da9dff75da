"""What the stores know of a user, and what a verified token claims: the two facts an identity is made of."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple, Protocol

from gateway.counting import Sample


@dataclass(frozen=True, slots=True)
class UserRecord:
    """One account as the database knows it. It holds everything that can take access away.

    `ended_sessions` are the ids of ended sessions from which an access token may still be unexpired; a token of one
    of them is refused. `version` grows with every change, so that an older copy never replaces a newer one in a cache.
    """

    id: str
    email: str
    is_active: bool
    roles: frozenset[str]
    created_at: datetime
    version: int
    ended_sessions: frozenset[str] = frozenset()


class Claims(NamedTuple):
    """What a verified token says. `subject` is the user id (`NAME|SUB` for an external issuer), `session` its `sid`.

    `expires_at` is in seconds since the epoch, leeway not included. `not_before` is the latest of `nbf` and `iat`.

    `roles` is None for the gateway's own tokens: it never reads roles from those. For an external issuer they are the
    mapped roles. For an API key they are those that it is limited to, and `session` is its id: what ends a session
    ends a key.

    `signed_by` is the key, the gateway's own or its issuer's, that was found to have signed the token: what lasts
    longer than a request ends with that key.
    """

    subject: str
    session: str
    expires_at: float
    not_before: float
    token_id: str
    issuer: str
    roles: frozenset[str] | None = None
    email: str = ""
    signed_by: object = None

    @property
    def is_external(self) -> bool:
        """Whether another issuer vouches for the subject: it has no account here. No local id holds a `|`."""
        return "|" in self.subject


class UserStore(Protocol):
    """Where user records come from: the database, as the directory sees it."""

    async def user(self, user_id: str) -> UserRecord | None:
        """The record, or None when there is no such user. Raises StorageUnavailable, 250 ms after a store that hangs
        was asked at the latest; a busy one may make one wait somewhat longer for one's turn."""


class SharedCache(Protocol):
    """The copy that replicas share (Redis). Its outage is not an error here: it answers None and takes nothing."""

    async def get(self, user_id: str) -> tuple[UserRecord, float] | None:
        """The record and the seconds it may still be used, or None: not there, or the cache is down."""

    async def put(self, record: UserRecord, *, age: float) -> None:
        """Keep a record that was asked of the database `age` seconds ago until it is `cache.user_ttl` old, unless
        a newer version of it is there already."""


class ChangeListener(Protocol):
    """Who holds copies of user records and must hear of changes: the directory."""

    def forget(self, user_id: str, version: int | None) -> None:
        """Copies of this user older than `version` are void; None: all of them."""

    def suspend(self) -> None:
        """Changes arrive late: every copy in this process is void. None is missed, so shared copies stay good."""

    def flush(self) -> None:
        """Changes may have been missed: every copy read before now is void, whoever keeps it."""


class ChangeFeed(Protocol):
    """Tells every replica that a user changed."""

    async def announce(self, user_id: str, record: UserRecord | None) -> None:
        """Tell all replicas, this one included, that older copies of this user are void; None: the user is gone.

        Here that holds when the call returns, whatever happens elsewhere; a store that is out is no error.
        """

    @property
    def connected(self) -> bool:
        """Whether changes made elsewhere reach this process now. While False, no local copy may be used."""

    def samples(self) -> Iterable[Sample]:
        """How long changes took to arrive here."""


def claim_path(claims: Mapping[str, Any], path: str | tuple[str, ...]) -> Any:
    """The value at a path of a claim set, None where there is none. The path is dotted (`realm_access.roles`), or a
    tuple of names.

    A claim named by the whole dotted path comes first: some are named by an address (`https://x.example/roles`).
    """
    if isinstance(path, str) and path in claims:
        return claims[path]
    value: Any = claims
    for name in path.split(".") if isinstance(path, str) else path:
        if not isinstance(value, Mapping):
            return None
        value = value.get(name)
    return value
