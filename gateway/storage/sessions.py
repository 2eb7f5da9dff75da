"""Sessions and their refresh tokens in the database. identity/refresh_token.py describes how tokens are recognised."""

import secrets
import time
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from sqlalchemy import ColumnElement, Connection, and_, bindparam, delete, insert, or_, select, update

from gateway.accounts.store import ActiveSession, NewSession, Reused, Rotated, Rotation
from gateway.identity.refresh_token import SEED_BYTES, RefreshToken
from gateway.identity.user import Actor, Authentication, UserRecord
from gateway.storage.audit import AuditedTransaction, write_audit
from gateway.storage.database import Database
from gateway.storage.outbox import Outbox
from gateway.storage.sign_in_places import notify_of_new_place, record_token_sign_in
from gateway.storage.tables import BROWSER, refresh_tokens, sessions, users
from gateway.storage.transactions import (
    COPIES_LAST,
    Ending,
    add_session,
    changed,
    end_keys,
    end_sessions,
    is_only_replica,
    lock_user,
)
from gateway.storage.user_queries import Clock, instant, record_by_id

# The most sessions of one account, far more than a person has devices. Beyond it, those unused for the longest time
# end.
MAX_LIVING: Final = 1000
LONGEST_CHAIN: Final = 100
_BATCH: Final = 500  # Sessions deleted in one transaction.
# The number of a PostgreSQL advisory lock: one replica deletes old sessions.
_CLEANING: Final = 0x67617465_73657373

_OWNER: Final = select(sessions.c.user_id).where(sessions.c.family == bindparam("family"))
_PRESENTED: Final = (
    select(
        sessions.c.id,
        sessions.c.user_id,
        sessions.c.expires_at,
        sessions.c.access_until,
        sessions.c.ended_at,
        sessions.c.authenticated_at,
        sessions.c.acr,
        sessions.c.amr,
        refresh_tokens.c.digest,
        refresh_tokens.c.replaced_at,
        refresh_tokens.c.seed,
    )
    .outerjoin_from(
        sessions,
        refresh_tokens,
        and_(refresh_tokens.c.session_id == sessions.c.id, refresh_tokens.c.digest == bindparam("digest")),
    )
    .where(sessions.c.family == bindparam("family"))
)


_LISTED: Final = (
    sessions.c.id,
    sessions.c.kind,
    sessions.c.created_at,
    sessions.c.used_at,
    sessions.c.expires_at,
    sessions.c.address,
    sessions.c.user_agent,
)


class _Found(NamedTuple):
    """A session and the presented token. `digest` is None if the token is unknown."""

    id: str
    user_id: str
    expires_at: datetime
    access_until: datetime
    ended_at: datetime | None
    authenticated_at: datetime
    acr: str
    amr: str
    digest: bytes | None
    replaced_at: datetime | None
    seed: bytes | None


class _EndRequest(NamedTuple):
    """Selects the sessions to end (None: all). `keys_known_until` ends all API keys too, and is the time until which
    replicas must know of that. `must_live`: fail if no session ends."""

    reason: str
    which: ColumnElement[bool] | None = None
    must_live: bool = False
    keys_known_until: datetime | None = None


class Sessions:
    """Implements SessionStore. `outbox` receives notices of sign-ins from new places, None: no notices. `clock` returns
    seconds since the epoch. A browser session ends `idle` seconds after its last use (None: no browser sessions), and a
    replica can hold a copy of it for `copies_last` seconds."""

    def __init__(
        self,
        database: Database,
        *,
        outbox: Outbox | None = None,
        clock: Clock = time.time,
        idle: float | None = None,
        copies_last: float = COPIES_LAST,
    ) -> None:
        self._database = database
        self._outbox = outbox
        self._clock = clock
        self._idle = idle
        self._copies_last = timedelta(seconds=copies_last)

    async def open(
        self, user_id: str, session: NewSession, *, verified: str, rehashed: str | None = None
    ) -> UserRecord | None:
        """Open a session. Return None if the user is disabled, deleted or has another password than the `verified`
        one."""
        now = instant(self._clock)

        def work(connection: Connection) -> UserRecord | None:
            if not prepare_sign_in(connection, user_id, now, verified=verified, rehashed=rehashed):
                return None
            if self._outbox is not None:
                notify_of_new_place(connection, self._outbox, user_id, session.origin, now)
                record_token_sign_in(connection, user_id, session.id, session.origin, now)
            add_session(connection, user_id, session, now)
            if _end_surplus(connection, user_id, Ending("surplus", now, now + self._copies_last)):
                return changed(connection, user_id, now)
            return record_by_id(connection, user_id, now)

        return await self._database.write(work)

    async def rotate(self, rotation: Rotation) -> Rotated | Reused | None:
        """Replace a refresh token with its successor."""
        now = instant(self._clock)
        token = rotation.token
        presented = {"family": token.family_digest, "digest": token.digest}

        def work(connection: Connection) -> Rotated | Reused | None:
            owner = connection.execute(_OWNER, {"family": token.family_digest}).scalar_one_or_none()
            user = None if owner is None else lock_user(connection, owner)
            row = connection.execute(_PRESENTED, presented).one_or_none()
            found = None if row is None else _Found(*row)
            if user is None or found is None or found.expires_at <= now:
                return None
            if found.digest is None or not _still_counts(found, rotation.grace, now):
                return _reused(connection, found, rotation, now)
            if found.ended_at is not None or not user.is_active:
                return None
            return _rotated(connection, found, rotation, now)

        return await self._database.write(work)

    async def reissue(self, user_id: str, session: NewSession) -> UserRecord | None:
        """Replace all refresh tokens of an open session, whose user has just been authenticated. A token of before is
        unknown afterwards, so a stolen one does not get the new authentication."""
        now = instant(self._clock)

        def work(connection: Connection) -> UserRecord | None:
            which = and_(sessions.c.id == session.id, sessions.c.user_id == user_id, sessions.c.ended_at.is_(None))
            user = lock_user(connection, user_id)
            found = connection.execute(select(sessions.c.access_until).where(which)).scalar_one_or_none()
            if user is None or not user.is_active or found is None:
                return None
            reissued = update(sessions).where(which)
            connection.execute(
                reissued.values(
                    family=session.token.family_digest,
                    authenticated_at=now,
                    used_at=now,
                    expires_at=session.expires_at,
                    access_until=max(found, session.access_until),
                )
            )
            connection.execute(delete(refresh_tokens).where(refresh_tokens.c.session_id == session.id))
            connection.execute(insert(refresh_tokens).values(digest=session.token.digest, session_id=session.id))
            return record_by_id(connection, user_id, now)

        return await self._database.write(work)

    async def end(self, user_id: str, session_id: str, *, reason: str, by: Actor) -> UserRecord | None:
        """End one session of a user."""
        return await self._end(user_id, _EndRequest(reason, sessions.c.id == session_id), by=by)

    async def end_all(
        self, user_id: str, *, reason: str, by: Actor, keys_known_until: datetime | None = None
    ) -> UserRecord | None:
        """End every session of a user, and with `keys_known_until` every API key."""
        return await self._end(user_id, _EndRequest(reason, keys_known_until=keys_known_until), by=by)

    async def living(self, user_id: str) -> tuple[ActiveSession, ...]:
        """Return the sessions of a user, the last used first."""
        order = (sessions.c.used_at.desc(), sessions.c.created_at.desc(), sessions.c.id)
        which = and_(sessions.c.user_id == user_id, sessions.c.ended_at.is_(None), self._lives())
        listing = select(*_LISTED).where(which).order_by(*order).limit(MAX_LIVING)
        rows = await self._database.read(lambda connection: connection.execute(listing).all())
        return tuple(ActiveSession(*row) for row in rows)

    async def end_living(self, user_id: str, session_id: str, *, reason: str, by: Actor) -> UserRecord | None:
        """End a session that `living` lists."""
        which = and_(sessions.c.id == session_id, self._lives())
        return await self._end(user_id, _EndRequest(reason, which, must_live=True), by=by)

    async def delete_old(self) -> int:
        """Delete a batch of sessions that are over, and return its size. On PostgreSQL one replica at a time does
        this."""
        now = instant(self._clock)

        def work(connection: Connection) -> int:
            if not is_only_replica(connection, _CLEANING):
                return 0
            # Rows that another transaction changes are skipped: it waits for none.
            old = select(sessions.c.id).where(_is_over(now)).limit(_BATCH).with_for_update(skip_locked=True)
            ids = connection.execute(old).scalars().all()
            connection.execute(delete(sessions).where(sessions.c.id.in_(ids)))
            return len(ids)

        return await self._database.write(work)

    async def _end(self, user_id: str, ending: _EndRequest, *, by: Actor) -> UserRecord | None:
        now = instant(self._clock)

        def work(connection: Connection) -> UserRecord | None:
            if lock_user(connection, user_id) is None:
                return None
            ended = _ended(connection, user_id, ending, Ending(ending.reason, now, now + self._copies_last))
            if not ended:
                return None if ending.must_live else record_by_id(connection, user_id, now)
            change = AuditedTransaction("sessions.ended", user_id, after={"reason": ending.reason, **ended})
            write_audit(connection, change, by=by, at=now)
            return changed(connection, user_id, now)

        return await self._database.write(work)

    def _lives(self) -> ColumnElement[bool]:
        """Build the condition that a session can still be used: it has a valid refresh token or access token, or a
        cookie within its idle limit."""
        now = instant(self._clock)
        lives = or_(sessions.c.expires_at > now, sessions.c.access_until > now)
        used_since = now - timedelta(seconds=self._idle or 0.0)
        return and_(lives, or_(sessions.c.kind != BROWSER, sessions.c.remember, sessions.c.used_at > used_since))


def _ended(connection: Connection, user_id: str, ending: _EndRequest, end: Ending) -> dict[str, int]:
    """End the sessions and keys, and return their numbers; empty if none ended."""
    count = end_sessions(connection, user_id, end, ending.which)
    if ending.keys_known_until is None:
        return {"sessions_ended": count} if count else {}
    keys = end_keys(connection, user_id, ending.keys_known_until)
    return {"sessions_ended": count, "api_keys_ended": keys} if count or keys else {}


def _still_counts(found: _Found, grace: float, now: datetime) -> bool:
    """Return whether a token is the current one of its session, or was replaced within the grace period."""
    return found.replaced_at is None or now < found.replaced_at + timedelta(seconds=grace)


def _reused(connection: Connection, found: _Found, rotation: Rotation, now: datetime) -> Reused | None:
    """End the session after a replay. Thief and owner cannot be told apart, so it ends for both (RFC 9700 4.14.2)."""
    # A session with a refresh token is no browser session, so no replica holds a copy of it.
    if end_sessions(connection, found.user_id, Ending("reuse", now, now), sessions.c.id == found.id):
        change = AuditedTransaction("sessions.ended", found.user_id, after={"reason": "reuse", "sessions_ended": 1})
        write_audit(connection, change, by=Actor(found.user_id, rotation.origin), at=now)
        return Reused(changed(connection, found.user_id, now))
    record = record_by_id(connection, found.user_id, now)
    return None if record is None else Reused(record)


def _rotated(connection: Connection, found: _Found, rotation: Rotation, now: datetime) -> Rotated:
    """Return the successor of the token.

    A token that was replaced within the grace period gets the current token of the session, because an older successor
    would end the session when it is presented later.
    """
    if found.seed is None:
        seed = secrets.token_bytes(SEED_BYTES)
        successor = rotation.token.successor(seed)
        _replace(connection, found, successor, seed, now)
        _forget_replaced(connection, found.id, now - timedelta(seconds=rotation.grace))
    else:
        successor = _current(connection, found.id, rotation.token.successor(found.seed))
    connection.execute(
        update(sessions)
        .where(sessions.c.id == found.id)
        .values(
            used_at=now,
            expires_at=rotation.expires_at,
            access_until=max(found.access_until, rotation.access_until),
            address=rotation.origin.address,
            user_agent=rotation.origin.user_agent,
        )
    )
    record = record_by_id(connection, found.user_id, now)
    assert record is not None, "the user's row is locked by this transaction"
    authentication = Authentication(found.authenticated_at.timestamp(), found.acr, tuple(found.amr.split()))
    return Rotated(record, found.id, successor, authentication)


def _current(connection: Connection, session_id: str, token: RefreshToken) -> RefreshToken:
    """Return the last token of a chain of replacements, at most LONGEST_CHAIN steps away. The chain is no older than
    the grace period."""
    for _ in range(LONGEST_CHAIN):
        row = refresh_tokens.c.digest == token.digest, refresh_tokens.c.session_id == session_id
        seed = connection.execute(select(refresh_tokens.c.seed).where(*row)).scalar_one_or_none()
        if seed is None:
            break
        token = token.successor(seed)
    return token


def _replace(connection: Connection, found: _Found, successor: RefreshToken, seed: bytes, now: datetime) -> None:
    old = update(refresh_tokens).where(refresh_tokens.c.digest == found.digest)
    connection.execute(old.values(replaced_at=now, seed=seed))
    connection.execute(insert(refresh_tokens).values(digest=successor.digest, session_id=found.id))


def _forget_replaced(connection: Connection, session_id: str, before: datetime) -> None:
    """Delete tokens whose grace period is over. A known session with an unknown token is recognised as a replay."""
    old = and_(refresh_tokens.c.session_id == session_id, refresh_tokens.c.replaced_at <= before)
    connection.execute(delete(refresh_tokens).where(old))


def prepare_sign_in(
    connection: Connection, user_id: str, now: datetime, *, verified: str, rehashed: str | None
) -> bool:
    """Lock an active user who still has the `verified` password, store its new hash, and delete old sessions.

    Returns False if the user is disabled, deleted or has another password.
    """
    user = lock_user(connection, user_id)
    if user is None or not user.is_active or user.password_hash != verified:
        return False
    if rehashed is not None:
        connection.execute(update(users).where(users.c.id == user_id).values(password_hash=rehashed))
    forget_old_sessions(connection, user_id, now)
    return True


def forget_old_sessions(connection: Connection, user_id: str, now: datetime) -> None:
    """Delete sessions that can no longer be refreshed and have no valid access token."""
    connection.execute(delete(sessions).where(sessions.c.user_id == user_id, _is_over(now)))


def _is_over(now: datetime) -> ColumnElement[bool]:
    over = or_(sessions.c.ended_at.is_not(None), sessions.c.expires_at <= now)
    return and_(sessions.c.access_until <= now, over)


def _end_surplus(connection: Connection, user_id: str, ending: Ending) -> int:
    """End the sessions of a user beyond MAX_LIVING, and return their number."""
    surplus = (
        select(sessions.c.id)
        .where(sessions.c.user_id == user_id, sessions.c.ended_at.is_(None))
        .order_by(sessions.c.used_at.desc(), sessions.c.created_at.desc())
        .offset(MAX_LIVING)
    )
    ids = connection.execute(surplus).scalars().all()
    if not ids:
        return 0
    return end_sessions(connection, user_id, ending, sessions.c.id.in_(ids))
