"""The audit trail: who changed what, when and from which address.

Each row is written in the transaction of its change. The services neither change nor delete rows. `gateway db
prune-audit` deletes old rows and records that it did.
"""

import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, NamedTuple

from sqlalchemy import BigInteger, Connection, Select, delete, func, insert, literal, select, tuple_

from gateway.accounts.store import AuditPage, AuditPlace, AuditRecord, AuditSelection
from gateway.identity.user import Actor
from gateway.storage.database import Database
from gateway.storage.tables import Instant, audit
from gateway.storage.user_queries import Clock, instant

State = Mapping[str, Any] | None

# A page out of millions of records can take longer than the look-up of a user. It delays no other request.
_LIST_LIMIT: Final = 2.0  # seconds
BATCH: Final = 5000  # records deleted in one transaction, so that other writes run in between
_COLUMNS: Final = (
    audit.c.id,
    audit.c.at,
    audit.c.action,
    audit.c.actor,
    audit.c.subject,
    audit.c.address,
    audit.c.request_id,
    audit.c.before,
    audit.c.after,
)


class AuditedTransaction(NamedTuple):
    """One change of a user. `before` and `after` hold only the values that changed, and no secrets."""

    action: str
    subject: str
    before: State = None
    after: State = None


def write_audit(connection: Connection, change: AuditedTransaction, *, by: Actor, at: datetime) -> None:
    """Record a change."""
    connection.execute(
        insert(audit).values(
            at=at,
            action=change.action,
            actor=by.id,
            subject=change.subject,
            address=by.origin.address,
            request_id=by.origin.request_id,
            before=change.before,
            after=change.after,
        )
    )


class AuditTrail:
    """Implements AuditReader. `clock` returns seconds since the epoch."""

    def __init__(self, database: Database, *, clock: Clock = time.time) -> None:
        self._database = database
        self._clock = clock

    async def page(self, selection: AuditSelection) -> AuditPage:
        """Return records, newest first."""
        query = _selected(selection)

        def work(connection: Connection) -> list[AuditRecord]:
            return [AuditRecord(*row) for row in connection.execute(query).all()]

        found = await self._database.read(work, limit=_LIST_LIMIT)
        shown = tuple(found[: selection.limit])
        following = AuditPlace(shown[-1].at, shown[-1].id) if len(found) > len(shown) else None
        return AuditPage(shown, following)

    async def count(self, before: datetime) -> int:
        """Return the number of records older than `before`."""
        query = select(func.count()).select_from(audit).where(audit.c.at < before)
        return await self._database.read(lambda connection: int(connection.execute(query).scalar_one()))

    async def prune(self, before: datetime, *, by: Actor) -> int:
        """Delete the records older than `before`, record the deletion, and return their number."""
        total = 0
        while True:
            deleted = await self._database.write(lambda connection: self._delete_some(connection, before, by))
            total += deleted
            if deleted < BATCH:
                return total

    def _delete_some(self, connection: Connection, before: datetime, by: Actor) -> int:
        """Delete one batch and record its size in the same transaction, so that an interrupted command leaves a true
        record."""
        oldest = select(audit.c.id).where(audit.c.at < before).order_by(audit.c.at, audit.c.id).limit(BATCH)
        deleted = connection.execute(delete(audit).where(audit.c.id.in_(oldest))).rowcount
        if deleted:
            pruned = {"before": before.isoformat(timespec="seconds"), "records": deleted}
            write_audit(
                connection, AuditedTransaction("audit.pruned", "audit", after=pruned), by=by, at=instant(self._clock)
            )
        return deleted


def _selected(selection: AuditSelection) -> Select[Any]:
    """Build the statement for a page. It selects one row more than the page, which shows whether another page
    follows."""
    query = select(*_COLUMNS).order_by(audit.c.at.desc(), audit.c.id.desc()).limit(selection.limit + 1)
    for column, value in (
        (audit.c.subject, selection.subject),
        (audit.c.actor, selection.actor),
        (audit.c.action, selection.action),
    ):
        if value is not None:
            query = query.where(column == value)
    if selection.since is not None:
        query = query.where(audit.c.at >= selection.since)
    if selection.until is not None:
        query = query.where(audit.c.at < selection.until)
    if selection.after is not None:
        place = tuple_(literal(selection.after.at, Instant), literal(selection.after.id, BigInteger))
        query = query.where(tuple_(audit.c.at, audit.c.id) < place)
    return query
