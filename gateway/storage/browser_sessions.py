"""Browser sessions in the database: they begin, get another cookie, and are found by the digest of a cookie. They end
like sessions of tokens, see sessions.py."""

import secrets
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import BindParameter, ColumnElement, Connection, Select, bindparam, insert, or_, select, update

from gateway.accounts.store import CookieRenewal, NewBrowserSession
from gateway.identity.session_cookie import KnownSession
from gateway.identity.user import ONE_FACTOR, PASSWORD, Actor, Authentication, UserRecord
from gateway.storage.audit import AuditedTransaction, write_audit
from gateway.storage.database import Database
from gateway.storage.outbox import Outbox
from gateway.storage.sessions import prepare_sign_in
from gateway.storage.sign_in_places import BEGAN, notify_of_new_place, place_of
from gateway.storage.tables import BROWSER, sessions, users
from gateway.storage.transactions import COPIES_LAST, Ending, changed, end_sessions, lock_user, renew_cookie
from gateway.storage.user_queries import Clock, instant, record_by_id

_FAMILY_BYTES: Final = 32  # the size of a digest
_KNOWN: Final[Select[Any]] = select(
    sessions.c.digest,
    sessions.c.previous_digest,
    sessions.c.id,
    sessions.c.user_id,
    users.c.version,
    sessions.c.authenticated_at,
    sessions.c.acr,
    sessions.c.amr,
    sessions.c.previous_until,
    sessions.c.previous_authenticated_at,
    sessions.c.previous_acr,
    sessions.c.previous_amr,
    sessions.c.used_at,
    sessions.c.expires_at,
    sessions.c.remember,
    sessions.c.ended_at.is_not(None).label("has_ended"),
    sessions.c.family,
).join_from(sessions, users, users.c.id == sessions.c.user_id)
_DIGESTS: Final[BindParameter[Any]] = bindparam("digests", expanding=True)
_BY_DIGEST: Final = _KNOWN.where(or_(sessions.c.digest.in_(_DIGESTS), sessions.c.previous_digest.in_(_DIGESTS)))
_BY_ID: Final = _KNOWN.where(sessions.c.id == bindparam("session_id"), sessions.c.kind == BROWSER)


class StoredBrowserSessions:
    """Implements BrowserSessionStore. `clock` returns seconds since the epoch. A replica can hold a copy of a session
    for `copies_last` seconds. `outbox` receives notices of sign-ins from new places, None: no notices."""

    def __init__(
        self,
        database: Database,
        *,
        outbox: Outbox | None = None,
        clock: Clock = time.time,
        copies_last: float = COPIES_LAST,
    ) -> None:
        self._database = database
        self._outbox = outbox
        self._clock = clock
        self._copies_last = timedelta(seconds=copies_last)

    # ---- reading

    async def known(self, digests: Sequence[bytes]) -> Mapping[bytes, KnownSession]:
        """Return the sessions of these cookies, current and previous ones, in one round trip."""
        rows = await self._database.read(lambda c: c.execute(_BY_DIGEST, {"digests": list(digests)}).all())
        requested, found = frozenset(digests), {}
        for row in rows:
            if row.digest in requested:
                found[row.digest] = _session_of(row, is_previous=False)
            if row.previous_digest in requested:
                found[row.previous_digest] = _session_of(row, is_previous=True)
        return found

    async def session(self, session_id: str) -> KnownSession | None:
        """Return a browser session."""
        row = await self._database.read(lambda c: c.execute(_BY_ID, {"session_id": session_id}).one_or_none())
        return None if row is None else _session_of(row, is_previous=False)

    async def note_uses(self, uses: Mapping[str, datetime]) -> None:
        """Store the times of last use. A later time that another replica has stored stays."""

        def work(connection: Connection) -> None:
            # Rows that another transaction changes are skipped: it waits for none, and the next use is stored.
            which = select(sessions.c.id).where(sessions.c.id.in_(uses)).with_for_update(skip_locked=True)
            for session_id in connection.execute(which).scalars().all():
                used_at = uses[session_id]
                used = update(sessions).where(sessions.c.id == session_id, sessions.c.used_at < used_at)
                connection.execute(used.values(used_at=used_at))

        await self._database.write(work)

    # ---- changing

    async def begin(
        self, user_id: str, session: NewBrowserSession, *, most: int, verified: str, rehashed: str | None = None
    ) -> UserRecord | None:
        """Begin a session. Return None if the user is disabled, deleted or has another password than the `verified`
        one."""
        now = instant(self._clock)

        def work(connection: Connection) -> UserRecord | None:
            if not prepare_sign_in(connection, user_id, now, verified=verified, rehashed=rehashed):
                return None
            if self._outbox is not None:
                notify_of_new_place(connection, self._outbox, user_id, session.origin, now)
            add_browser_session(connection, user_id, session, now)
            surplus = _surplus(connection, user_id, most)
            if surplus is not None:
                end_sessions(connection, user_id, Ending("surplus", now, now + self._copies_last), surplus)
                return changed(connection, user_id, now)
            return record_by_id(connection, user_id, now)

        return await self._database.write(work)

    async def renew(self, user_id: str, session_id: str, renewal: CookieRenewal) -> UserRecord | None:
        """Replace the cookie of an open session, whose user has just proved the password."""
        now = instant(self._clock)

        def work(connection: Connection) -> UserRecord | None:
            user = lock_user(connection, user_id)
            if user is None or not user.is_active or not renew_cookie(connection, session_id, renewal, now):
                return None
            return changed(connection, user_id, now)  # the new version tells replicas to read the previous cookie again

        return await self._database.write(work)


def add_browser_session(connection: Connection, user_id: str, session: NewBrowserSession, now: datetime) -> None:
    """Insert a session, and the audit record of the sign-in."""
    values = {
        "id": session.id,
        "user_id": user_id,
        "kind": BROWSER,
        "family": secrets.token_bytes(_FAMILY_BYTES),
        "digest": session.digest,
        "created_at": now,
        "used_at": now,
        "authenticated_at": now,
        "acr": ONE_FACTOR,
        "amr": PASSWORD,
        "expires_at": session.expires_at,
        "access_until": session.expires_at,
        "remember": session.remember,
        "address": session.origin.address,
        "user_agent": session.origin.user_agent,
    }
    connection.execute(insert(sessions).values(**values))
    began = {"id": session.id, "kind": BROWSER, "amr": [PASSWORD], "remember": session.remember}
    began |= place_of(session.origin)._asdict()
    change = AuditedTransaction(BEGAN, user_id, after=began)
    write_audit(connection, change, by=Actor(user_id, session.origin), at=now)


def _surplus(connection: Connection, user_id: str, most: int) -> ColumnElement[bool] | None:
    """Build the condition for the oldest open browser sessions of a user beyond `most`; None without any."""
    open_ones = (sessions.c.user_id == user_id, sessions.c.kind == BROWSER, sessions.c.ended_at.is_(None))
    newest_first = (sessions.c.created_at.desc(), sessions.c.id)
    surplus = select(sessions.c.id).where(*open_ones).order_by(*newest_first).offset(most)
    ids = connection.execute(surplus).scalars().all()
    return sessions.c.id.in_(ids) if ids else None


def _session_of(row: Any, *, is_previous: bool) -> KnownSession:
    at, acr, amr = row.authenticated_at, row.acr, row.amr
    if is_previous:
        at, acr, amr = row.previous_authenticated_at, row.previous_acr, row.previous_amr
    return KnownSession(
        id=row.id,
        user_id=row.user_id,
        version=row.version,
        authentication=Authentication(at.timestamp(), acr, tuple(amr.split())),
        used_at=row.used_at,
        expires_at=row.expires_at,
        replaced_until=row.previous_until if is_previous else None,
        remember=bool(row.remember),
        has_ended=bool(row.has_ended),
        secret=row.family,
    )
