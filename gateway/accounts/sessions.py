"""The sessions of an account, listed and ended by its holder.

Methods raise Refusal for errors of the client. StorageUnavailable propagates.
"""

import re
from typing import Final

from gateway.accounts.change_publisher import ChangePublisher
from gateway.accounts.service import account_holder
from gateway.accounts.store import ActiveSession, SessionStore
from gateway.errors import Refusal
from gateway.identity.user import ChangeFeed, Claims, ClientInfo

# The format of secrets.token_urlsafe. Other text needs no query, and PostgreSQL rejects NUL.
_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}").fullmatch


class SessionService:
    def __init__(self, sessions: SessionStore, feed: ChangeFeed) -> None:
        self._sessions = sessions
        self._announcer = ChangePublisher(feed)

    async def list(self, claims: Claims, origin: ClientInfo) -> tuple[ActiveSession, ...]:
        """The caller's sessions, most recently used first. Raises `forbidden` like account_holder."""
        return await self._sessions.living(account_holder(claims, origin).id)

    async def end(self, claims: Claims, session_id: str, origin: ClientInfo) -> None:
        """End a session of the caller on all replicas. Raises `not_found` unless it is an active session of the caller,
        `forbidden` like account_holder."""
        holder = account_holder(claims, origin)
        if _ID(session_id) is None:
            raise Refusal("not_found")
        ending = self._sessions.end_living(holder.id, session_id, reason="removed", by=holder)
        if await self._announcer.changed(ending) is None:
            raise Refusal("not_found")
