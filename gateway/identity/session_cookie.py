"""The cookie of a browser session. `opaque` describes the format of its value.

The value means nothing outside the gateway and is no token: as a bearer credential it is invalid. The store finds the
session by the digest of the value. After a renewal, the previous value stays good for a short time, for requests on
their way, and keeps the authentication that it had: a copy that was stolen before a confirmation does not rise with it.

The next value follows from the current one and a secret of the session. Requests that renew a cookie at the same time
agree on it, so the order in which a browser reads the responses does not matter.
"""

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final, NamedTuple, Protocol

from gateway.identity.opaque import is_opaque, new_opaque, opaque_of
from gateway.identity.user import Authentication

PREFIX: Final = "gws_"


def new_cookie() -> str:
    return new_opaque(PREFIX)


def following_cookie(value: bytes, secret: bytes) -> str:
    """The cookie that replaces `value` in the session with this secret."""
    return opaque_of(PREFIX, hmac.digest(secret, value, "sha512"))


def cookie_digest(value: bytes) -> bytes | None:
    """The digest under which the store keeps a cookie; None for text that is no cookie of the gateway."""
    return hashlib.sha256(value).digest() if is_opaque(value, PREFIX) else None


class KnownSession(NamedTuple):
    """A browser session as needed for the decision on one of its cookies.

    `version` is that of the user's record at the same moment. `replaced_until` is the end of a previous cookie, None
    for the current one. `remember`: no idle limit. `secret` is that of `following_cookie`.
    """

    id: str
    user_id: str
    version: int
    authentication: Authentication
    used_at: datetime
    expires_at: datetime
    replaced_until: datetime | None
    remember: bool
    has_ended: bool
    secret: bytes

    def __repr__(self) -> str:
        return f"KnownSession(id={self.id!r}, user_id={self.user_id!r})"


class SessionReader(Protocol):
    """Lookup of presented cookies. All methods raise StorageUnavailable."""

    async def known(self, digests: Sequence[bytes]) -> Mapping[bytes, KnownSession]:
        """The sessions of these cookies, by digest. Unknown digests are absent."""

    async def session(self, session_id: str) -> KnownSession | None:
        """A browser session by its id."""

    async def note_uses(self, uses: Mapping[str, datetime]) -> None:
        """Record the last use of sessions, by id."""
