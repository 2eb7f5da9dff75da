"""Accounts and audit records as programs read them, over HTTP and from commands alike."""

from datetime import datetime
from typing import Any

from gateway.identity.audit import AuditRecord
from gateway.identity.records import UserRecord


def rfc3339(moment: datetime) -> str:
    """A moment as answers have it: UTC, to the millisecond."""
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def account(record: UserRecord) -> dict[str, Any]:
    """An account as its administrators read it, and as GET /me has it."""
    return {
        "id": record.id,
        "email": record.email,
        "is_active": record.is_active,
        "roles": sorted(record.roles),
        "created_at": rfc3339(record.created_at),
    }


def audit_record(record: AuditRecord) -> dict[str, Any]:
    """A record of the audit trail."""
    return {**record._asdict(), "at": rfc3339(record.at)}
