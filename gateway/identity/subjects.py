"""Subjects of external issuers. They have no account here, but administrators can block them."""

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from gateway.identity.accounts import Actor
from gateway.identity.user import UserRecord


@dataclass(frozen=True, slots=True)
class BlockedSubject:
    """A blocked subject (`NAME|SUB`): the time, the author (a user id or `command-line`), and the reason."""

    subject: str
    at: datetime
    by: str
    reason: str


class SubjectStore(Protocol):
    """The block list of external subjects. All methods raise StorageUnavailable if the database does not answer in
    time."""

    async def user(self, subject: str) -> UserRecord:
        """The subject as a record: active unless blocked. Roles and address come from its tokens."""

    async def blocked(self) -> tuple[BlockedSubject, ...]:
        """All blocked subjects, in alphabetical order."""

    async def block(self, subject: str, reason: str, *, by: Actor) -> UserRecord:
        """Block a subject and write an audit record; returns the new record. Blocking twice changes nothing."""

    async def unblock(self, subject: str, *, by: Actor) -> UserRecord | None:
        """Unblock a subject; None if it is not blocked."""
