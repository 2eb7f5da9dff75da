"""Reading the audit trail: records, filters and pages."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple, Protocol


class AuditRecord(NamedTuple):
    """One change. `subject` is the changed account; `actor` is a user id, `NAME|SUB` or `command-line`. `address` and
    `request_id` come from the request, empty for the command line. `before` and `after` contain the changed values
    only."""

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
    """The position of a record in the trail."""

    at: datetime
    id: int


@dataclass(frozen=True, slots=True)
class AuditSelection:
    """A filter for records, newest first: from `since`, before `until`, and after the position `after`."""

    subject: str | None = None
    actor: str | None = None
    action: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    limit: int = 50
    after: AuditPlace | None = None


class AuditPage(NamedTuple):
    """A page of records. `next` is the `after` of the following page, None on the last page."""

    records: tuple[AuditRecord, ...]
    next: AuditPlace | None


class AuditReader(Protocol):
    """Read access to the audit trail. No interface allows changes."""

    async def page(self, selection: AuditSelection) -> AuditPage:
        """Matching records, newest first. Raises StorageUnavailable."""
