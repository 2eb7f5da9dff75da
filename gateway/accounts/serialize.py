"""JSON forms of accounts and audit records, for the API and the command line."""

from datetime import datetime
from typing import Any

from gateway.accounts.store import AuditRecord
from gateway.identity.user import UserRecord


def rfc3339(moment: datetime) -> str:
    """A timestamp in UTC with milliseconds, as used in responses."""
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def account(record: UserRecord) -> dict[str, Any]:
    """An account as shown to administrators."""
    return {
        "id": record.id,
        "email": record.email,
        "is_active": record.is_active,
        "roles": sorted(record.roles),
        "created_at": rfc3339(record.created_at),
    }


def own_account(record: UserRecord) -> dict[str, Any]:
    """An account as shown to its holder."""
    return {
        **account(record),
        "email_verified": record.email_verified,
        "has_password": record.has_password,
        "second_factors": [],
    }


def audit_record(record: AuditRecord) -> dict[str, Any]:
    return {**record._asdict(), "at": rfc3339(record.at)}
