"""The sessions of an account as its holder sees them: where one is signed in, and how that ends from elsewhere.

Raises Refusal for what the caller may be told, and lets StorageUnavailable pass.
"""

import re
from typing import Final

from gateway.accounts.announcing import Announcer
from gateway.accounts.holders import account_holder
from gateway.errors import Refusal
from gateway.identity.accounts import LivingSession, Origin, SessionStore
from gateway.identity.records import ChangeFeed, Claims

# What secrets.token_urlsafe makes; nothing else need be looked for, and PostgreSQL takes no NUL.
_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}").fullmatch


class OwnSessions:
    """The service."""

    def __init__(self, sessions: SessionStore, feed: ChangeFeed) -> None:
        self._sessions = sessions
        self._announcer = Announcer(feed)

    async def list(self, claims: Claims, origin: Origin) -> tuple[LivingSession, ...]:
        """The caller's sessions, the one used last first. Raises `forbidden` like account_holder."""
        return await self._sessions.living(account_holder(claims, origin).id)

    async def end(self, claims: Claims, session_id: str, origin: Origin) -> None:
        """End one of the caller's sessions, everywhere. Raises `not_found` where it is none of theirs that lives,
        `forbidden` like account_holder."""
        holder = account_holder(claims, origin)
        if _ID(session_id) is None:
            raise Refusal("not_found")
        ending = self._sessions.end_living(holder.id, session_id, reason="removed", by=holder)
        if await self._announcer.changed(ending) is None:
            raise Refusal("not_found")
