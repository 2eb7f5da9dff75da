"""The subjects of other issuers: they have no account here, but may be shut out here."""

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from gateway.identity.accounts import Actor
from gateway.identity.records import UserRecord


@dataclass(frozen=True, slots=True)
class BlockedSubject:
    """A subject (`NAME|SUB`) that is shut out: since when, by whom (a user id, or `command-line`), and why."""

    subject: str
    at: datetime
    by: str
    reason: str


class SubjectStore(Protocol):
    """What the database knows of subjects. All raise StorageUnavailable when it does not answer in time."""

    async def user(self, subject: str) -> UserRecord:
        """The subject as a record: active unless it is blocked, without roles and address, which its tokens bring."""

    async def blocked(self) -> tuple[BlockedSubject, ...]:
        """All that are blocked, in the order of their names."""

    async def block(self, subject: str, reason: str, *, by: Actor) -> UserRecord:
        """Shut a subject out, with its audit record; the record afterwards. Doing it twice changes nothing."""

    async def unblock(self, subject: str, *, by: Actor) -> UserRecord | None:
        """Let it in again; None where it is not blocked."""
