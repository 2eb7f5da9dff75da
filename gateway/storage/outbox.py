"""The outbox: mails that wait to be sent, and requests that can lead to mails.

    waiting ──lease──▶ leased ──▶ sent                 the row stays for some minutes, so that a notice is not repeated
       ▲                 │
       ├──── retry ──────┤                             due again later
       ├──── the lease is over: its process died
       │                 └──▶ given up                 a permanent refusal, or too late for its link

A mail is written in the transaction of its cause and is sent at least once. A process that dies while it sends leaves
its lease, and another one sends the mail again after LEASE seconds, with the same Message-ID. The content of a mail is
encrypted, because its link is a credential. Only the recipient and the kind are readable.
"""

import json
import logging
import secrets
import time
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple, cast, get_args

from sqlalchemy import ColumnElement, Connection, Select, and_, delete, exists, func, insert, or_, select, update

from gateway.accounts.emails import EmailAddress
from gateway.accounts.mail.ports import (
    Backlog,
    LeasedMail,
    MailKind,
    MailRequest,
    OutgoingMail,
    RequestKind,
    WaitingMail,
)
from gateway.identity.user import Actor, ClientInfo
from gateway.storage.audit import AuditedTransaction, write_audit
from gateway.storage.database import Database
from gateway.storage.encryption import Cipher, Undecryptable
from gateway.storage.tables import links, outbox, users
from gateway.storage.transactions import is_only_replica
from gateway.storage.user_queries import Clock, instant

LEASE: Final = timedelta(seconds=60)
# The delays after failed attempts. The last one repeats.
RETRIES: Final = tuple(timedelta(seconds=delay) for delay in (10, 60, 300, 900, 1800))
PATIENCE: Final = timedelta(hours=24)  # A mail is pointless after that.
# Anonymous requests are dropped while so many mails and requests wait: about 30 MiB.
MOST_WAITING: Final = 20_000
_NO_REPEAT: Final = timedelta(minutes=5)  # Between two equal notices to one address.
_SHOWN_GIVEN_UP: Final = timedelta(days=7)
MOST_GIVEN_UP: Final = 10_000
_HASTENED: Final = 3  # Attempts after which a mail keeps its schedule, because the fault can be its own.
_BATCH: Final = 500  # Rows deleted in one transaction.
_MOST_LISTED: Final = 10_000
_OUTAGE: Final = "outage: "  # Begins the reason of a mail that waits for the server.
# Another version adds kinds. Its rows wait for a replica of that version.
_REQUESTS: Final = get_args(RequestKind)
_MAILS: Final = get_args(MailKind)
_UNREADABLE: Final = "no key of storage.encryption_keys decrypts it"
# The number of a PostgreSQL advisory lock: one replica deletes old rows.
_CLEANING: Final = 0x67617465_6D61696C

log: Final = logging.getLogger("gateway.storage.outbox")


class Addressee(NamedTuple):
    """The receiver of a mail. `user_id` is None for an address without an account."""

    email: str
    canonical: str
    language: str | None = None
    user_id: str | None = None


class Outbox:
    """Implements OutboxStore and RequestStore. `cipher` is None where no mail is configured: then nothing is written.

    `clock` returns seconds since the epoch.
    """

    def __init__(self, database: Database, cipher: Cipher | None, *, clock: Clock = time.time) -> None:
        self._database = database
        self._cipher = cipher
        self._clock = clock
        self._waiting = 0  # as last counted, and the requests that this process has written since

    # ---- writing, in the transaction of the cause

    def write(
        self,
        connection: Connection,
        kind: MailKind,
        to: Addressee,
        now: datetime,
        *,
        link: str = "",
        lifetime: timedelta = PATIENCE,
        data: Mapping[str, str] | None = None,
    ) -> None:
        """Write a mail. `link` is the token of its link, which is valid for `lifetime`."""
        content = {
            "to": to.email,
            "language": to.language,
            "user": to.user_id,
            "link": link,
            "link_expires_at": (now + lifetime).isoformat(),
            "data": data or {},
        }
        self._insert(connection, kind, to.canonical, content, now, now + min(lifetime, PATIENCE))

    def notice(self, connection: Connection, kind: MailKind, user_id: str, now: datetime, **data: str) -> None:
        """Write a mail to the current address of an account."""
        if self._cipher is not None:
            found = addressee(connection, users.c.id == user_id)
            if found is not None:
                self.notice_to(connection, kind, found, now, **data)

    def notice_to(self, connection: Connection, kind: MailKind, to: Addressee, now: datetime, **data: str) -> None:
        """Write a mail to an address, unless it got the same notice within five minutes."""
        if self._cipher is None:
            return
        same = and_(outbox.c.recipient == to.canonical, outbox.c.kind == kind, outbox.c.created_at > now - _NO_REPEAT)
        if not connection.execute(select(exists().where(same))).scalar_one():
            self.write(connection, kind, to, now, data=data)

    async def ask(self, request: MailRequest) -> None:
        """Store a request."""
        now = instant(self._clock)
        await self._database.write(lambda connection: self.write_request(connection, request, now))

    def write_request(self, connection: Connection, request: MailRequest, now: datetime) -> None:
        """Write a request, unless too many wait. The outbox would otherwise grow without bound during an outage."""
        if self._waiting >= MOST_WAITING:
            return
        self._waiting += 1
        content = {
            "email": request.email.text,
            "canonical": request.email.canonical,
            "user": request.user_id,
            "origin": [request.origin.address, request.origin.user_agent, request.origin.request_id],
            "session": request.session_id,
        }
        self._insert(connection, request.kind, request.email.canonical, content, now, now + PATIENCE)

    def _insert(
        self,
        connection: Connection,
        kind: str,
        recipient: str,
        content: Mapping[str, Any],
        now: datetime,
        expires_at: datetime,
    ) -> None:
        if self._cipher is None:
            return
        row_id = secrets.token_hex(16)
        values = {
            "id": row_id,
            "kind": kind,
            "recipient": recipient,
            "data": self._cipher.encrypt(json.dumps(content).encode(), place=_place(row_id)),
            "created_at": now,
            "due_at": now,
            "expires_at": expires_at,
            "attempts": 0,
        }
        connection.execute(insert(outbox).values(**values))

    # ---- requests, for storage/mail_requests.py

    def due_requests(self, connection: Connection, now: datetime, count: int) -> list[MailRequest]:
        """Take due requests out of the outbox, in the transaction that answers them."""
        which = and_(_is_due(now), outbox.c.kind.in_(_REQUESTS))
        found, taken = [], []
        for row in connection.execute(_locked(select(outbox), which, count)).all():
            content = self._content(row)
            if content is None:
                self._postpone(connection, row, now)
                continue
            email = EmailAddress(content["email"], content["canonical"])
            origin, session_id = ClientInfo(*content["origin"]), content.get("session")
            found.append(MailRequest(row.kind, email, content["user"], origin, session_id))
            taken.append(row.id)
        connection.execute(delete(outbox).where(outbox.c.id.in_(taken)))
        return found

    # ---- sending

    async def is_due(self, *, requests: bool) -> bool:
        """Return whether a request, or else a mail, is due. Cheap, because every replica polls."""
        kinds = _REQUESTS if requests else _MAILS
        due = select(exists().where(_is_due(instant(self._clock)), outbox.c.kind.in_(kinds)))
        return bool(await self._database.read(lambda connection: connection.execute(due).scalar_one()))

    async def lease(self, count: int) -> tuple[LeasedMail, ...]:
        """Take due mails for this process."""
        now = instant(self._clock)
        until = now + LEASE

        def work(connection: Connection) -> tuple[LeasedMail, ...]:
            which = and_(_is_due(now), outbox.c.kind.in_(_MAILS))
            leased = []
            for row in connection.execute(_locked(select(outbox), which, count)).all():
                content = self._content(row)
                if content is None:
                    self._postpone(connection, row, now)
                else:
                    leased.append(_leased(row, content, until))
            taken = outbox.c.id.in_([each.mail.id for each in leased])
            connection.execute(update(outbox).where(taken).values(lease_until=until))
            return tuple(leased)

        return await self._database.write(work)

    async def sent(self, leased: LeasedMail) -> None:
        """Record that a mail was sent. Its content is dropped."""
        now = instant(self._clock)
        done = update(outbox).where(outbox.c.id == leased.mail.id).values(sent_at=now, data=b"", lease_until=None)
        await self._database.write(lambda connection: connection.execute(done))

    async def retry(self, leased: LeasedMail, reason: str, *, is_outage: bool) -> None:
        """Record a failed attempt. The last one is due when the link expires."""
        values = _again(leased.attempts, leased.mail.expires_at, instant(self._clock))
        values["reason"] = f"{_OUTAGE}{reason}" if is_outage else reason
        again = update(outbox).where(_is_leased(leased)).values(**values)
        await self._database.write(lambda connection: connection.execute(again))

    async def give_up(self, leased: LeasedMail, reason: str) -> None:
        """Record that a mail cannot be sent."""
        now = instant(self._clock)

        def work(connection: Connection) -> None:
            row = connection.execute(select(outbox).where(_is_leased(leased))).one_or_none()
            if row is not None:
                self._end(connection, row, now, reason)

        await self._database.write(work)

    async def release(self, leased: LeasedMail) -> None:
        """End a lease without an attempt."""
        free = update(outbox).where(_is_leased(leased)).values(lease_until=None)
        await self._database.write(lambda connection: connection.execute(free))

    async def note_outage(self, reason: str) -> None:
        """Record why mails wait. They stay due."""
        waiting = update(outbox).where(_is_waiting(), outbox.c.reason.is_(None))
        noted = waiting.values(reason=f"{_OUTAGE}{reason}")
        await self._database.write(lambda connection: connection.execute(noted))

    async def hasten(self) -> int:
        """Make mails due whose first attempts failed because of an outage."""
        now = instant(self._clock)
        is_first = and_(outbox.c.reason.startswith(_OUTAGE), outbox.c.attempts < _HASTENED)
        waiting = and_(_is_waiting(), is_first, outbox.c.due_at > now)
        soon = update(outbox).where(waiting).values(due_at=now)
        return await self._database.write(lambda connection: connection.execute(soon).rowcount)

    def _end(self, connection: Connection, row: Any, now: datetime, reason: str) -> None:
        content = self._content(row) or {}
        connection.execute(
            update(outbox)
            .where(outbox.c.id == row.id)
            .values(given_up_at=now, reason=reason, data=b"", lease_until=None)
        )
        subject = content.get("user") or "mail"
        failed = AuditedTransaction("mail.failed", subject, after={"kind": row.kind, "reason": reason})
        write_audit(connection, failed, by=Actor("gateway"), at=now)

    def _postpone(self, connection: Connection, row: Any, now: datetime) -> None:
        """Leave an unreadable row to another replica: while keys are replaced, replicas can have different ones."""
        if row.expires_at <= now:
            self._end(connection, row, now, _UNREADABLE)
            return
        values = _again(row.attempts, row.expires_at, now) | {"reason": _UNREADABLE}
        connection.execute(update(outbox).where(outbox.c.id == row.id).values(**values))

    def _content(self, row: Any) -> dict[str, Any] | None:
        assert self._cipher is not None, "without a cipher nothing is written"
        try:
            return cast("dict[str, Any]", json.loads(self._cipher.decrypt(row.data, place=_place(row.id))))
        except Undecryptable:
            return None

    # ---- operation

    async def backlog(self) -> Backlog:
        """Count the mails and requests that wait."""
        now = instant(self._clock)
        query = select(func.count(), func.min(outbox.c.created_at)).where(_is_waiting())
        count, oldest = await self._database.read(lambda connection: connection.execute(query).one())
        if count >= MOST_WAITING:
            log.warning("%d mails and requests wait, so that further requests for mails are dropped", count)
        self._waiting = count
        return Backlog(count, 0.0 if oldest is None else (now - oldest).total_seconds())

    async def listed(self) -> tuple[WaitingMail, ...]:
        """The mails and requests that wait, and those of the last days that were given up, oldest first."""
        columns = (
            outbox.c.id,
            outbox.c.kind,
            outbox.c.recipient,
            outbox.c.created_at,
            outbox.c.due_at,
            outbox.c.attempts,
            outbox.c.given_up_at,
            outbox.c.reason,
        )
        query = select(*columns).where(outbox.c.sent_at.is_(None)).order_by(outbox.c.created_at).limit(_MOST_LISTED)
        rows = await self._database.read(lambda connection: connection.execute(query).all())
        return tuple(WaitingMail(*row) for row in rows)

    async def hasten_all(self) -> int:
        """Make every mail due that waits. Return the number of all that wait."""
        soon = update(outbox).where(_is_waiting()).values(due_at=instant(self._clock))
        return await self._database.write(lambda connection: connection.execute(soon).rowcount)

    async def delete_old(self) -> int:
        """Delete a batch of rows that are over. On PostgreSQL one replica at a time does this."""
        now = instant(self._clock)
        given_up = select(outbox.c.id).where(outbox.c.given_up_at.is_not(None))
        is_over = or_(
            outbox.c.sent_at < now - _NO_REPEAT,
            outbox.c.given_up_at < now - _SHOWN_GIVEN_UP,
            outbox.c.id.in_(given_up.order_by(outbox.c.given_up_at.desc(), outbox.c.id).offset(MOST_GIVEN_UP)),
            outbox.c.expires_at < now - _SHOWN_GIVEN_UP,  # of a kind that no replica knows any more
        )

        def work(connection: Connection) -> int:
            if not is_only_replica(connection, _CLEANING):
                return 0
            mails = select(outbox.c.id).where(is_over).limit(_BATCH)
            deleted = connection.execute(delete(outbox).where(outbox.c.id.in_(mails))).rowcount
            expired = select(links.c.digest).where(links.c.expires_at <= now).limit(_BATCH)
            return deleted + connection.execute(delete(links).where(links.c.digest.in_(expired))).rowcount

        return await self._database.write(work)


def addressee(connection: Connection, which: ColumnElement[bool]) -> Addressee | None:
    """The address of an account."""
    query = select(users.c.email, users.c.canonical, users.c.language, users.c.id).where(which)
    row = connection.execute(query).one_or_none()
    return None if row is None else Addressee(*row)


def _place(row_id: str) -> str:
    return f"outbox:{row_id}"


def _is_waiting() -> ColumnElement[bool]:
    return and_(outbox.c.sent_at.is_(None), outbox.c.given_up_at.is_(None))


def _is_due(now: datetime) -> ColumnElement[bool]:
    """Select rows whose time has come. Times that no correct clock writes count as over: the clock of a replica was set
    back, or it ran ahead until the replica died."""
    is_free = or_(outbox.c.lease_until.is_(None), outbox.c.lease_until <= now, outbox.c.lease_until > now + 2 * LEASE)
    is_time = or_(outbox.c.due_at <= now, outbox.c.due_at > now + 2 * RETRIES[-1])
    return and_(is_time, _is_waiting(), is_free)


def _again(attempts: int, expires_at: datetime, now: datetime) -> dict[str, Any]:
    """The columns of a row after a failed attempt. The last one is due when the link expires."""
    due = min(now + RETRIES[min(attempts, len(RETRIES) - 1)], expires_at)
    return {"attempts": attempts + 1, "due_at": due, "lease_until": None}


def _is_leased(leased: LeasedMail) -> ColumnElement[bool]:
    """Select a mail as long as no other process has taken it."""
    return and_(outbox.c.id == leased.mail.id, outbox.c.lease_until == leased.until)


def _locked(query: Select[Any], which: ColumnElement[bool], count: int) -> Select[Any]:
    """Select rows that no other replica takes at the same time. SQLite has one writer and needs no lock. Rows with
    fewer attempts come first, so that mails that fail slowly do not delay others."""
    order = (outbox.c.attempts, outbox.c.due_at, outbox.c.created_at)
    return query.where(which).order_by(*order).limit(count).with_for_update(skip_locked=True)


def _leased(row: Any, content: Mapping[str, Any], until: datetime) -> LeasedMail:
    link_expires_at = content.get("link_expires_at")  # mails that an older version wrote lack it
    mail = OutgoingMail(
        id=row.id,
        kind=row.kind,
        recipient=content["to"],
        language=content["language"],
        created_at=row.created_at,
        expires_at=row.expires_at,
        link=content["link"],
        data=content["data"],
        link_expires_at=None if link_expires_at is None else datetime.fromisoformat(link_expires_at),
    )
    return LeasedMail(mail, row.attempts, until)
