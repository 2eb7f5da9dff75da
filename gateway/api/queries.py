"""Models of list queries. All values of a query are strings."""

import re
from datetime import UTC, datetime
from typing import Final

from gateway.accounts.inputs import Body, body, read_by
from gateway.accounts.store import AuditPlace
from gateway.api.cursors import audit_place, user_place
from gateway.settings.model import Settings

DEFAULT_LIMIT: Final = 50
MAX_LIMIT: Final = 200
_LONGEST: Final = 256  # Characters of a search term.
# RFC 3339 5.6. Databases store no leap seconds: such a time is read as the last moment before.
_MOMENT: Final = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:)(\d\d)(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)", re.ASCII
).fullmatch


def _plain(value: object) -> str:
    if not isinstance(value, str) or len(value) > _LONGEST:
        raise ValueError(f"must be at most {_LONGEST} characters long")
    if not value.isprintable():
        raise ValueError("must be printable text")
    return value


def _search(value: object, _: Settings) -> str:
    return _plain(value)


def _term(value: object, _: Settings) -> str:
    return _plain(value)


def _truth(value: object, _: Settings) -> bool:
    if value not in ("true", "false"):
        raise ValueError("must be true or false")
    return value == "true"


def _limit(value: object, _: Settings) -> int:
    if not isinstance(value, str) or re.fullmatch("[0-9]{1,4}", value) is None or not 1 <= int(value) <= MAX_LIMIT:
        raise ValueError(f"must be a whole number from 1 to {MAX_LIMIT}")
    return int(value)


def _moment(value: object, _: Settings) -> datetime:
    found = _MOMENT(value) if isinstance(value, str) else None
    if found is None:
        raise ValueError("must be a date and time like 2026-01-31T08:15:00Z")
    day, clock, seconds, fraction, zone = found.groups()
    if seconds == "60":
        seconds, fraction = "59", ".999999"
    text = f"{day}T{clock}{seconds}{(fraction or '')[:7]}{'+00:00' if zone in 'Zz' else zone}"
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError("must be an existing date and time") from None


def _user_cursor(value: object, _: Settings) -> str:
    return user_place(str(value))


def _audit_cursor(value: object, _: Settings) -> AuditPlace:
    return audit_place(str(value))


@body
class UserQuery(Body):
    """GET /users."""

    query: str = read_by(_search, default="")
    role: str | None = read_by(_term, default=None)
    active: bool | None = read_by(_truth, default=None)
    limit: int = read_by(_limit, default=DEFAULT_LIMIT)
    cursor: str | None = read_by(_user_cursor, default=None)


@body
class AuditQuery(Body):
    """GET /audit."""

    subject: str | None = read_by(_term, default=None)
    actor: str | None = read_by(_term, default=None)
    action: str | None = read_by(_term, default=None)
    since: datetime | None = read_by(_moment, default=None)
    until: datetime | None = read_by(_moment, default=None)
    limit: int = read_by(_limit, default=DEFAULT_LIMIT)
    cursor: AuditPlace | None = read_by(_audit_cursor, default=None)
