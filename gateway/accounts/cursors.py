"""Cursors: where a page ended, as callers hand it back.

A cursor names the last thing that was shown, not a number of things, so that nothing is shown twice or left out when
others are added or deleted between two pages. Its form is nobody's business but ours, and says so by looking like it;
it holds nothing that its reader was not shown, gives no right to anything, and is as good on every replica.
"""

import binascii
from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import UTC, datetime, timedelta
from typing import Final

from gateway.identity.audit import AuditPlace

MAX_LENGTH: Final = 2048  # characters; the longest of ours has fewer
_USERS: Final = b"u"
_AUDIT: Final = b"a"
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_MOST: Final = 2**63  # what a database counts up to
_NOT_OURS: Final = "is not a cursor of this list"


def user_cursor(canonical: str) -> str:
    """The cursor of a page of users that ended with this canonical address."""
    return _packed(_USERS, canonical.encode())


def user_place(cursor: str) -> str:
    """What `user_cursor` was given. Raises ValueError with a sentence."""
    try:
        canonical = _unpacked(_USERS, cursor).decode()
    except UnicodeDecodeError:
        raise ValueError(_NOT_OURS) from None
    if "@" not in canonical or not canonical.isprintable():
        raise ValueError(_NOT_OURS)
    return canonical


def audit_cursor(place: AuditPlace) -> str:
    """The cursor of a page of audit records that ended with the one at this place."""
    return _packed(_AUDIT, f"{(place.at - _EPOCH) // _MICROSECOND}.{place.id}".encode())


def audit_place(cursor: str) -> AuditPlace:
    """What `audit_cursor` was given. Raises ValueError with a sentence."""
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
    # There is one way to write a cursor: base64 lets pass what it does not know.
    if packed[:1] != kind or _packed(kind, packed[1:]) != cursor:
        raise ValueError(_NOT_OURS)
    return packed[1:]
