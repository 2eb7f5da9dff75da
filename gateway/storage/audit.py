"""The audit trail: who changed what, when and from where. A row is written in the transaction of its change."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, insert

from gateway.identity.accounts import Actor
from gateway.storage.tables import audit

State = Mapping[str, Any] | None


class Change(NamedTuple):
    """What happened to one user. `before` and `after` hold only what changed, and no secrets."""

    action: str
    subject: str
    before: State = None
    after: State = None


def write_audit(connection: Connection, change: Change, *, by: Actor, at: datetime) -> None:
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
