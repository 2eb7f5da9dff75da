"""Blocked subjects of external issuers in the database.

The row stays when its subject is unblocked: its version must keep growing, or an older copy of the record could pass
for a newer one.
"""

import time
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import Connection, Row, Select, bindparam, insert, select, true, update

from gateway.accounts.store import BlockedSubject
from gateway.identity.user import Actor, UserRecord, UserStore
from gateway.storage.audit import AuditedTransaction, write_audit
from gateway.storage.database import Database
from gateway.storage.tables import blocked_subjects as blocks
from gateway.storage.transactions import lock_administration
from gateway.storage.user_queries import Clock, instant

_UNKNOWN: Final = datetime(1970, 1, 1, tzinfo=UTC)  # the creation time of a user known only to an issuer
_OF_SUBJECT: Final[Select[Any]] = select(blocks.c.is_blocked, blocks.c.version).where(
    blocks.c.subject == bindparam("subject")
)


class Subjects:
    """Implements SubjectStore. `clock` returns seconds since the epoch."""

    def __init__(self, database: Database, *, clock: Clock = time.time) -> None:
        self._database = database
        self._clock = clock

    async def user(self, subject: str) -> UserRecord:
        """Return the record of a subject, in one round trip."""
        return await self._database.read(lambda connection: _record(connection, subject))

    async def blocked(self) -> tuple[BlockedSubject, ...]:
        """Return all blocked subjects."""
        query = select(blocks.c.subject, blocks.c.at, blocks.c.by, blocks.c.reason).where(blocks.c.is_blocked == true())

        def work(connection: Connection) -> tuple[BlockedSubject, ...]:
            return tuple(BlockedSubject(*row) for row in connection.execute(query.order_by(blocks.c.subject)))

        return await self._database.read(work)

    async def block(self, subject: str, reason: str, *, by: Actor) -> UserRecord:
        """Block a subject."""

        def work(connection: Connection) -> UserRecord:
            lock_administration(connection)  # serializes transactions that block a subject without a row
            row = _row(connection, subject)
            if row is None or not row.is_blocked:
                values = {"is_blocked": True, "at": instant(self._clock), "by": by.id, "reason": reason}
                _write(connection, subject, row, values)
                after = {"is_blocked": True, "reason": reason}
                change = AuditedTransaction("subject.blocked", subject, {"is_blocked": False}, after)
                write_audit(connection, change, by=by, at=instant(self._clock))
            return _record(connection, subject)

        return await self._database.write(work)

    async def unblock(self, subject: str, *, by: Actor) -> UserRecord | None:
        """Unblock a subject."""

        def work(connection: Connection) -> UserRecord | None:
            lock_administration(connection)
            row = _row(connection, subject)
            if row is None or not row.is_blocked:
                return None
            _write(connection, subject, row, {"is_blocked": False, "at": instant(self._clock), "by": by.id})
            change = AuditedTransaction("subject.unblocked", subject, {"is_blocked": True}, {"is_blocked": False})
            write_audit(connection, change, by=by, at=instant(self._clock))
            return _record(connection, subject)

        return await self._database.write(work)


class AllUsers:
    """The UserStore over accounts of the gateway and subjects of external issuers."""

    def __init__(self, users: UserStore, subjects: Subjects) -> None:
        self._users = users
        self._subjects = subjects

    async def user(self, user_id: str) -> UserRecord | None:
        """Return the record of a user. The id of an account contains no `|`."""
        return await (self._subjects.user(user_id) if "|" in user_id else self._users.user(user_id))


def _row(connection: Connection, subject: str) -> Row[Any] | None:
    return connection.execute(_OF_SUBJECT, {"subject": subject}).one_or_none()


def _record(connection: Connection, subject: str) -> UserRecord:
    row = _row(connection, subject)
    is_active, version = (True, 0) if row is None else (not row.is_blocked, row.version)
    return UserRecord(subject, "", is_active, frozenset(), _UNKNOWN, version, has_password=False)


def _write(connection: Connection, subject: str, row: Row[Any] | None, values: dict[str, Any]) -> None:
    if row is None:
        connection.execute(insert(blocks).values(subject=subject, version=1, **values))
    else:
        changing = update(blocks).where(blocks.c.subject == subject)
        connection.execute(changing.values(version=row.version + 1, **values))
