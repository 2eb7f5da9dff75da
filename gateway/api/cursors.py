"""Pagination cursors.

A cursor names the last item shown instead of an offset, so that insertions and deletions between two pages cause no
duplicates or gaps. Its format is private and opaque. It contains only data that the client has seen, grants no access,
and is valid on every replica.
"""

import binascii
from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import UTC, datetime, timedelta
from typing import Final

from gateway.accounts.store import AuditPlace

MAX_LENGTH: Final = 2048  # In characters; longer than any cursor of the gateway.
_USERS: Final = b"u"
_AUDIT: Final = b"a"
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_MOST: Final = 2**63  # The largest integer of the database.
_NOT_OURS: Final = "is not a cursor of this list"


def user_cursor(canonical: str) -> str:
    """The cursor of a page of users that ended with this canonical address."""
    return _packed(_USERS, canonical.encode())


def user_place(cursor: str) -> str:
    """The argument of `user_cursor`. Raises ValueError with a message for the client."""
    try:
        canonical = _unpacked(_USERS, cursor).decode()
    except UnicodeDecodeError:
        raise ValueError(_NOT_OURS) from None
    if "@" not in canonical or not canonical.isprintable():
        raise ValueError(_NOT_OURS)
    return canonical


def audit_cursor(place: AuditPlace) -> str:
    """The cursor of a page of audit records that ended at this position."""
    return _packed(_AUDIT, f"{(place.at - _EPOCH) // _MICROSECOND}.{place.id}".encode())


def audit_place(cursor: str) -> AuditPlace:
    """The argument of `audit_cursor`. Raises ValueError with a message for the client."""
    at, _, number = _unpacked(_AUDIT, cursor).partition(b".")
    if not (at.isdigit() and number.isdigit()) or max(len(at), len(number)) > 19 or int(number) >= _MOST:
        raise ValueError(_NOT_OURS)
    try:
        place = AuditPlace(_EPOCH + int(at) * _MICROSECOND, int(number))
    except OverflowError:
        raise ValueError(_NOT_OURS) from None
    if audit_cursor(place) != cursor:
        raise ValueError(_NOT_OURS)
    return place


def _packed(kind: bytes, place: bytes) -> str:
    return urlsafe_b64encode(kind + place).rstrip(b"=").decode("ascii")


def _unpacked(kind: bytes, cursor: str) -> bytes:
    if len(cursor) > MAX_LENGTH or not cursor.isascii():
        raise ValueError(_NOT_OURS)
    try:
        packed = urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
    except (binascii.Error, ValueError):
        raise ValueError(_NOT_OURS) from None
    # Only the canonical encoding is accepted: the base64 decoder ignores unknown characters.
    if packed[:1] != kind or _packed(kind, packed[1:]) != cursor:
        raise ValueError(_NOT_OURS)
    return packed[1:]
