"""Users in the database: the look-up of the directory on a cache miss, and the changes of accounts."""

import re
import time
from collections.abc import Callable, Collection, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Connection, Select, bindparam, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from gateway.accounts.emails import EmailAddress
from gateway.accounts.mail.ports import MailRequest
from gateway.accounts.store import (
    ENDS_SESSIONS,
    NewSession,
    NewUser,
    PasswordEffects,
    Selection,
    StoredPassword,
    UserPage,
)
from gateway.errors import Refusal
from gateway.identity.user import Actor, UserRecord
from gateway.storage.audit import AuditedTransaction, write_audit
from gateway.storage.database import Database, release
from gateway.storage.link_rows import void_links
from gateway.storage.outbox import Addressee, Outbox
from gateway.storage.tables import sessions, user_roles, users
from gateway.storage.transactions import (
    COPIES_LAST,
    Ending,
    add_session,
    changed,
    end_keys,
    end_sessions,
    grant,
    has_active,
    lock_administration,
    lock_user,
    renew_cookie,
    require_admin,
)
from gateway.storage.user_emails import account_row, change_address, mark_verified
from gateway.storage.user_queries import Clock, instant, record_by_email, record_by_id, record_of, selected

# A subject of another form cannot be a user id, so it needs no query (and PostgreSQL rejects NUL).
_USER_ID: Final = re.compile(r"[A-Za-z0-9-]{1,64}").fullmatch
_DELETED: Final = "user.deleted"
# A page can take longer than the look-up of one user. It delays no other request.
_LIST_LIMIT: Final = 2.0  # seconds
_SCAN_LIMIT: Final = 5.0  # seconds; a scan of a million accounts takes one
_CREDENTIALS: Final = select(
    users.c.id,
    users.c.password_hash,
    users.c.is_active,
    users.c.canonical,
    users.c.email_verified_at.is_not(None),
)
_CREDENTIALS_BY_EMAIL: Final = _CREDENTIALS.where(users.c.canonical == bindparam("canonical"))
_CREDENTIALS_BY_ID: Final = _CREDENTIALS.where(users.c.id == bindparam("user_id"))
# A bcrypt hash contains the cost as two digits: $2b$12$…
_ROUNDS: Final = func.substr(users.c.password_hash, 5, 2)
_MOST_ROUNDS: Final = select(func.max(_ROUNDS)).where(
    users.c.password_hash.like("$2_$__$%"), func.length(users.c.password_hash) == 60, _ROUNDS.between("04", "16")
)


class Users:
    """Implements AccountStore. `clock` returns seconds since the epoch. A replica can hold a copy of a browser session
    for `copies_last` seconds."""

    def __init__(
        self,
        database: Database,
        *,
        outbox: Outbox | None = None,
        clock: Clock = time.time,
        copies_last: float = COPIES_LAST,
    ) -> None:
        self._database = database
        self._outbox = Outbox(database, None) if outbox is None else outbox
        self._clock = clock
        self._copies_last = timedelta(seconds=copies_last)

    # ---- reading

    async def user(self, user_id: str) -> UserRecord | None:
        """Return the record of a user in one round trip; None for an unknown user."""
        if _USER_ID(user_id) is None:
            return None
        now = instant(self._clock)
        return await self._database.read(lambda connection: record_by_id(connection, user_id, now))

    async def by_email(self, canonical: str) -> UserRecord | None:
        """Return the account of a canonical address."""
        now = instant(self._clock)
        return await self._database.read(lambda connection: record_by_email(connection, canonical, now))

    async def credentials(self, canonical: str) -> StoredPassword | None:
        """Return the credentials for a password check by address."""
        return await self._credentials(_CREDENTIALS_BY_EMAIL, {"canonical": canonical})

    async def credentials_of(self, user_id: str) -> StoredPassword | None:
        """Return the credentials for a password check by user id."""
        return await self._credentials(_CREDENTIALS_BY_ID, {"user_id": user_id})

    async def most_rounds(self) -> int:
        """Return the highest cost among the bcrypt hashes that the gateway can verify."""
        most = await self._database.read(lambda c: c.execute(_MOST_ROUNDS).scalar_one(), limit=_SCAN_LIMIT)
        return int(most or 0)

    async def note_language(self, user_id: str, language: str) -> None:
        """Store the language, if it is another one. Nothing else depends on it, so no version changes."""
        differs = func.coalesce(users.c.language, "") != language

        def work(connection: Connection) -> None:
            connection.execute(update(users).where(users.c.id == user_id, differs).values(language=language))

        await self._database.write(work)

    async def _credentials(self, query: Select[Any], parameters: dict[str, str]) -> StoredPassword | None:
        def work(connection: Connection) -> StoredPassword | None:
            row = connection.execute(query, parameters).one_or_none()
            return None if row is None else StoredPassword(*row)

        return await self._database.read(work)

    async def page(self, selection: Selection) -> UserPage:
        """Return users in the order of their canonical addresses."""
        now = instant(self._clock)

        def work(connection: Connection) -> Sequence[Any]:
            return connection.execute(selected(connection, selection), {"now": now}).all()

        rows = await self._database.read(work, limit=_LIST_LIMIT)
        shown = rows[: selection.limit]
        following = shown[-1].canonical if len(rows) > len(shown) else None
        return UserPage(tuple(record_of(row) for row in shown), following)

    async def any_active(self, roles: Collection[str]) -> bool:
        """Return whether any active user has one of these roles."""
        return await self._database.read(lambda connection: has_active(connection, roles))

    # ---- changing

    async def create(
        self, user: NewUser, *, by: Actor, session: NewSession | None = None, asks_to_verify: bool = False
    ) -> UserRecord:
        """Create an account. Of concurrent attempts for one address, the database lets one succeed."""
        now = instant(self._clock)

        def work(connection: Connection) -> UserRecord:
            record = create_user(connection, user, now, by=by, session=session)
            if asks_to_verify:
                address = EmailAddress(user.email, user.canonical)
                self._outbox.write_request(connection, MailRequest("asked-verify", address, user.id, by.origin), now)
            return record

        return await self._database.write(work)

    async def set_password(
        self,
        user_id: str,
        password_hash: str,
        *,
        by: Actor,
        verified: str | None = None,
        effects: PasswordEffects = ENDS_SESSIONS,
    ) -> UserRecord | None:
        """Replace the password. Return None if the stored hash is no longer `verified` (None: not checked)."""
        now = instant(self._clock)

        def work(connection: Connection) -> UserRecord | None:
            user = lock_user(connection, user_id)
            if user is None or (verified is not None and user.password_hash != verified):
                return None
            connection.execute(update(users).where(users.c.id == user_id).values(password_hash=password_hash))
            others = None if effects.keep is None else sessions.c.id != effects.keep
            ended = {
                "sessions_ended": end_sessions(
                    connection, user_id, Ending("password", now, now + self._copies_last), others
                )
            }
            if effects.keys_known_until is not None:
                ended["api_keys_ended"] = end_keys(connection, user_id, effects.keys_known_until)
            if effects.keep is not None and effects.renewal is not None:
                renew_cookie(connection, effects.keep, effects.renewal, now)
            change = AuditedTransaction("user.password_changed", user_id, after=ended)
            write_audit(connection, change, by=by, at=now)
            void_links(connection, user_id)
            self._outbox.notice(connection, "password-changed", user_id, now)
            return changed(connection, user_id, now)

        return await self._database.write(work)

    async def change(
        self,
        user_id: str,
        *,
        is_active: bool | None = None,
        roles: frozenset[str] | None = None,
        by: Actor,
        admin_roles: Collection[str],
    ) -> UserRecord | None:
        """Disable or enable an account, replace its roles, or both in one transaction. None leaves a value
        unchanged."""

        def work(connection: Connection, record: UserRecord) -> list[AuditedTransaction]:
            made = []
            if is_active is not None and is_active != record.is_active:
                made.append(_set_active(connection, record, is_active))
            if roles is not None and roles != record.roles:
                made.append(_set_roles(connection, record, roles))
            return made

        return await self._administer(user_id, work, by=by, admin_roles=admin_roles)

    async def delete(self, user_id: str, *, by: Actor, admin_roles: Collection[str]) -> UserRecord | None:
        """Delete an account with its roles and sessions, and return its last record."""

        def work(connection: Connection, record: UserRecord) -> list[AuditedTransaction]:
            self._outbox.notice(connection, "account-deleted", user_id, instant(self._clock))
            connection.execute(delete(users).where(users.c.id == user_id))
            was = {"email": record.email, "roles": sorted(record.roles), "is_active": record.is_active}
            return [AuditedTransaction(_DELETED, user_id, before=was)]

        return await self._administer(user_id, work, by=by, admin_roles=admin_roles)

    async def set_email(self, user_id: str, email: EmailAddress, *, by: Actor) -> UserRecord | None:
        """Change the address of an account. The new one is unverified, and every link of the account is void.

        Raises Refusal("email_taken").
        """
        now = instant(self._clock)

        def work(connection: Connection) -> UserRecord | None:
            lock_user(connection, user_id)
            account = account_row(connection, user_id)
            if account is None:
                return None
            new = Addressee(email.text, email.canonical, account.language, user_id)
            return change_address(connection, account, new, now, self._outbox, by=by, is_verified=False)

        return await self._database.write(work)

    async def verify_email(self, user_id: str, *, by: Actor) -> UserRecord | None:
        """Mark the address of an account as verified."""
        now = instant(self._clock)

        def work(connection: Connection) -> UserRecord | None:
            is_known = lock_user(connection, user_id) is not None
            return mark_verified(connection, user_id, now, by=by) if is_known else None

        return await self._database.write(work)

    async def note_unlocked(self, user_id: str, *, address: str | None, by: Actor) -> None:
        """Record that the failed logins of a user or address were reset. Only the audit record is stored here."""
        now = instant(self._clock)
        change = AuditedTransaction("user.unlocked", user_id, after=None if address is None else {"address": address})
        await self._database.write(lambda connection: write_audit(connection, change, by=by, at=now))

    async def _administer(
        self,
        user_id: str,
        work: Callable[[Connection, UserRecord], list[AuditedTransaction]],
        *,
        by: Actor,
        admin_roles: Collection[str],
    ) -> UserRecord | None:
        """Run work that can remove the last administrator; roll it back if it does."""
        now = instant(self._clock)

        def transaction(connection: Connection) -> UserRecord | None:
            lock_administration(connection)
            lock_user(connection, user_id)
            record = record_by_id(connection, user_id, now)
            changes = [] if record is None else work(connection, record)
            if record is None or not changes:
                return record
            if record.is_active and not record.roles.isdisjoint(admin_roles):
                require_admin(connection, admin_roles)
            for change in changes:
                write_audit(connection, change, by=by, at=now)
            return record if changes[0].action == _DELETED else changed(connection, user_id, now)

        return await self._database.write(transaction)


def _columns(user: NewUser, now: datetime) -> dict[str, Any]:
    return {
        "id": user.id,
        "email": user.email,
        "canonical": user.canonical,
        "email_verified_at": now if user.email_verified else None,
        "password_hash": user.password_hash,
        "is_active": True,
    }


def create_user(
    connection: Connection, user: NewUser, now: datetime, *, by: Actor, session: NewSession | None
) -> UserRecord:
    """Insert an account, with its first session. Raises Refusal("email_taken")."""
    try:
        connection.execute(insert(users).values(**_columns(user, now), version=1, created_at=now))
    except IntegrityError as error:
        release(error)
        raise Refusal("email_taken") from None
    grant(connection, user.id, user.roles)
    if session is not None:
        add_session(connection, user.id, session, now)
    made = {"email": user.email, "roles": sorted(user.roles), "is_active": True}
    write_audit(connection, AuditedTransaction("user.created", user.id, after=made), by=by, at=now)
    record = record_by_id(connection, user.id, now)
    assert record is not None
    return record


def _set_active(connection: Connection, record: UserRecord, active: bool) -> AuditedTransaction:
    void_links(connection, record.id)
    connection.execute(update(users).where(users.c.id == record.id).values(is_active=active))
    action = "user.enabled" if active else "user.disabled"
    return AuditedTransaction(action, record.id, {"is_active": record.is_active}, {"is_active": active})


def _set_roles(connection: Connection, record: UserRecord, roles: frozenset[str]) -> AuditedTransaction:
    connection.execute(delete(user_roles).where(user_roles.c.user_id == record.id))
    grant(connection, record.id, roles)
    return AuditedTransaction("user.roles_set", record.id, {"roles": sorted(record.roles)}, {"roles": sorted(roles)})
