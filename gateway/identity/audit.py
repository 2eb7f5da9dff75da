"""The audit trail as it is read: what one record says, and how to ask for some of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple, Protocol


class AuditRecord(NamedTuple):
    """One change. `subject` is whose account it was, `actor` a user id, `NAME|SUB` or `command-line`; `address` and
    `request_id` are those of the request it was asked for by, empty for the command line. `before` and `after` hold
    what changed and nothing else."""

    id: int
    at: datetime
    action: str
    actor: str
    subject: str
    address: str
    request_id: str
    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None


class AuditPlace(NamedTuple):
    """A place in the trail: that of a record."""

    at: datetime
    id: int


@dataclass(frozen=True, slots=True)
class AuditSelection:
    """Which records to list, newest first: from `since` on, before `until`, and those that follow `after`."""

    subject: str | None = None
    actor: str | None = None
    action: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    limit: int = 50
    after: AuditPlace | None = None


class AuditPage(NamedTuple):
    """Some records; `next` is what `after` must be for those that follow, None on the last page."""

    records: tuple[AuditRecord, ...]
    next: AuditPlace | None


class AuditReader(Protocol):
    """The trail can be read. Nothing that a service has can change it."""

    async def page(self, selection: AuditSelection) -> AuditPage:
        """Records, newest first. Raises StorageUnavailable."""
