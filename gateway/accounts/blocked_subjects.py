"""Block subjects of external issuers: the service behind `gateway users block`.

Methods raise Refusal: `invalid_fields` or `not_found`. StorageUnavailable propagates. Every change writes an audit
record in its transaction, and is published to all replicas before the method returns.
"""

from collections.abc import Iterable
from typing import Final

from gateway.accounts.change_publisher import ChangePublisher
from gateway.accounts.store import BlockedSubject, SubjectStore
from gateway.errors import FieldError, Refusal
from gateway.identity.claims import MAX_TEXT
from gateway.identity.user import COMMAND_LINE, Actor, ChangeFeed, UserRecord
from gateway.settings.model import ExternalSettings

MAX_REASON: Final = 500  # In characters.


class Blocking:
    """The service. A subject is `NAME|SUB`: the issuer's name in the configuration, and its `sub`."""

    def __init__(self, subjects: SubjectStore, feed: ChangeFeed, issuers: Iterable[ExternalSettings]) -> None:
        self._subjects = subjects
        self._announcer = ChangePublisher(feed)
        self._names = tuple(issuer.name for issuer in issuers)

    async def blocked(self) -> tuple[BlockedSubject, ...]:
        return await self._subjects.blocked()

    async def block(self, subject: str, reason: str = "", *, by: Actor = COMMAND_LINE) -> UserRecord:
        """Block a subject on all replicas, independent of its tokens."""
        name, _, sub = subject.partition("|")
        if name not in self._names:
            known = ", ".join(self._names) or "none"
            raise _invalid("subject", f"must be NAME|SUB with the name of an issuer in tokens.external ({known})")
        if not 0 < len(sub) <= MAX_TEXT or not sub.isprintable():
            raise _invalid("subject", f"must be NAME|SUB with a SUB of 1 to {MAX_TEXT} printable characters")
        if len(reason) > MAX_REASON or not reason.isprintable():
            raise _invalid("reason", f"must be one line of at most {MAX_REASON} characters")
        record = await self._announcer.changed(self._subjects.block(subject, reason, by=by))
        assert record is not None
        return record

    async def unblock(self, subject: str, *, by: Actor = COMMAND_LINE) -> UserRecord:
        """Unblock a subject."""
        record = await self._announcer.changed(self._subjects.unblock(subject, by=by))
        if record is None:
            raise Refusal("not_found", detail="This subject is not blocked")
        return record


def _invalid(field: str, message: str) -> Refusal:
    return Refusal("invalid_fields", fields=[FieldError(field, message)])
