"""Blocked subjects of other issuers in the database. A row stays when its subject is let in again: its version must go
on growing, or a copy of the record from before could pass for a newer one."""

import time
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import Connection, Row, Select, bindparam, insert, select, true, update

from gateway.identity.accounts import Actor
from gateway.identity.records import UserRecord, UserStore
from gateway.identity.subjects import BlockedSubject
from gateway.storage.audit import Change, write_audit
from gateway.storage.changing import lock_administration
from gateway.storage.database import Database
from gateway.storage.records import Clock, instant
from gateway.storage.tables import blocked_subjects as blocks

_UNKNOWN: Final = datetime(1970, 1, 1, tzinfo=UTC)  # since when there is somebody of whom only the issuer knows
_OF_SUBJECT: Final[Select[Any]] = select(blocks.c.is_blocked, blocks.c.version).where(
    blocks.c.subject == bindparam("subject")
)


class Subjects:
    """The SubjectStore over a database. `clock` gives seconds since the epoch."""

    def __init__(self, database: Database, *, clock: Clock = time.time) -> None:
        self._database = database
        self._clock = clock

    async def user(self, subject: str) -> UserRecord:
        """The subject as a record, in one round trip."""
        return await self._database.read(lambda connection: _record(connection, subject))

    async def blocked(self) -> tuple[BlockedSubject, ...]:
        """All that are blocked."""
        query = select(blocks.c.subject, blocks.c.at, blocks.c.by, blocks.c.reason).where(blocks.c.is_blocked == true())

        def work(connection: Connection) -> tuple[BlockedSubject, ...]:
            return tuple(BlockedSubject(*row) for row in connection.execute(query.order_by(blocks.c.subject)))

        return await self._database.read(work)

    async def block(self, subject: str, reason: str, *, by: Actor) -> UserRecord:
        """Shut a subject out."""

        def work(connection: Connection) -> UserRecord:
            lock_administration(connection)  # two who block a subject that has no row yet come one after the other
            row = _row(connection, subject)
            if row is None or not row.is_blocked:
                values = {"is_blocked": True, "at": instant(self._clock), "by": by.id, "reason": reason}
                _write(connection, subject, row, values)
                after = {"is_blocked": True, "reason": reason}
                change = Change("subject.blocked", subject, {"is_blocked": False}, after)
                write_audit(connection, change, by=by, at=instant(self._clock))
            return _record(connection, subject)

        return await self._database.write(work)

    async def unblock(self, subject: str, *, by: Actor) -> UserRecord | None:
        """Let a subject in again."""

        def work(connection: Connection) -> UserRecord | None:
            lock_administration(connection)
            row = _row(connection, subject)
            if row is None or not row.is_blocked:
                return None
            _write(connection, subject, row, {"is_blocked": False, "at": instant(self._clock), "by": by.id})
            change = Change("subject.unblocked", subject, {"is_blocked": True}, {"is_blocked": False})
            write_audit(connection, change, by=by, at=instant(self._clock))
            return _record(connection, subject)

        return await self._database.write(work)


class Everybody:
    """The UserStore of all: accounts of the gateway, and the subjects of other issuers."""

    def __init__(self, users: UserStore, subjects: Subjects) -> None:
        self._users = users
        self._subjects = subjects

    async def user(self, user_id: str) -> UserRecord | None:
        """The record. No account's id holds a `|`."""
        return await (self._subjects.user(user_id) if "|" in user_id else self._users.user(user_id))


def _row(connection: Connection, subject: str) -> Row[Any] | None:
    return connection.execute(_OF_SUBJECT, {"subject": subject}).one_or_none()


def _record(connection: Connection, subject: str) -> UserRecord:
    row = _row(connection, subject)
    is_active, version = (True, 0) if row is None else (not row.is_blocked, row.version)
    return UserRecord(subject, "", is_active, frozenset(), _UNKNOWN, version)


def _write(connection: Connection, subject: str, row: Row[Any] | None, values: dict[str, Any]) -> None:
    if row is None:
        connection.execute(insert(blocks).values(subject=subject, version=1, **values))
    else:
        changing = update(blocks).where(blocks.c.subject == subject)
        connection.execute(changing.values(version=row.version + 1, **values))
