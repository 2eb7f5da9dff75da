"""The sender: tasks of every replica that answer requests and deliver the mails of the outbox.

    working ──no connection, or FAILURES mails in a row get no answer──▶ down      mails wait, each with the reason
       ▲                                                                  │ every PROBE seconds
       └──────────────── the server answers for a mail ───────────────────┘

The lease of a batch begins after the connection is open. The limits below end every batch within the lease, so a slow
server does not lead to a second delivery by another replica.

Requests have a task of their own, because a server that answers slowly must not delay them. Both tasks poll. If a task
woke up at every write, the work for a known address would delay the next requests, and the time of responses would tell
which addresses are known.
"""

import asyncio
import logging
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from gateway.accounts.mail.composing import Composer, Envelope
from gateway.accounts.mail.ports import Backlog, LeasedMail, OutboxStore, RequestResolver
from gateway.accounts.mail.transport import (
    Delivery,
    DeliveryFailed,
    FolderTransport,
    MailTransport,
    Recorder,
    TransportDown,
)
from gateway.accounts.texts.catalogue import Catalogue
from gateway.errors import StorageUnavailable
from gateway.samples import Sample
from gateway.settings.model import PageSettings, Settings

EVERY: Final = 1.0  # Seconds between two polls of an empty outbox.
PROBE: Final = 15.0  # Seconds between two attempts to reach a server that is down.
PER_CONNECTION: Final = 20  # Mails.
# Mails without an answer, one after the other, after which the server counts as down. A single mail must not stop the
# others: some servers cut the connection, or do not answer, for certain recipients.
FAILURES: Final = 3
_CONNECT_TIME: Final = 20.0
# The last mail of a batch starts within _BATCH_TIME and ends within _MAIL_TIME, which together are below the lease.
_BATCH_TIME: Final = 20.0
_MAIL_TIME: Final = 35.0
_CLEANING: Final = 600.0
_COUNTING: Final = 10.0
_GOODBYE: Final = 5.0

log: Final = logging.getLogger("gateway.accounts.mail.sender")

Clock = Callable[[], float]


class Sender:
    """`every` and `probe` are in seconds. `clock` is monotonic, and `now` returns seconds since the epoch."""

    def __init__(
        self,
        outbox: OutboxStore,
        requests: RequestResolver,
        transport: MailTransport,
        composer: Composer,
        *,
        every: float = EVERY,
        probe: float = PROBE,
        clock: Clock = time.monotonic,
        now: Clock = time.time,
    ) -> None:
        self._outbox = outbox
        self._requests = requests
        self._transport = transport
        self.composer = composer
        self._every = every
        self._probe = probe
        self._clock = clock
        self._now = now
        # After a start, mails can wait because of an outage that only the previous process knew of.
        self._is_down = True
        self._failures = 0  # mails without an answer since the last answer
        self._unrecorded: LeasedMail | None = None  # a sent mail, while the database is down
        self._probe_at = self._clean_at = self._count_at = clock()
        self._counts: Counter[tuple[str, str]] = Counter()
        self._backlog = Backlog(0, 0.0)
        self._closing = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._repeat(work)) for work in (self._answer_requests, self._send_mails)]

    async def close(self, *, within: float = _GOODBYE) -> None:
        """Finish the mail that is being sent, within this number of seconds. Another replica sends the others."""
        self._closing.set()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=within)
            for task in self._tasks:
                task.cancel()

    def samples(self) -> Iterator[Sample]:
        """Counts of mails by kind and outcome, and the mails that wait."""
        for labels, count in self._counts.items():
            yield Sample("gateway_mail_total", labels, count)
        yield Sample("gateway_mail_waiting", (), self._backlog.waiting)
        yield Sample("gateway_mail_oldest_seconds", (), self._backlog.oldest)

    async def _repeat(self, work: Callable[[], Awaitable[bool]]) -> None:
        while not self._closing.is_set():
            try:
                has_worked = await work()
            except StorageUnavailable:
                has_worked = False  # the database reports its outage itself
            except Exception:
                log.exception("sending mail failed")
                has_worked = False
            if not has_worked:
                # Replicas poll at different times.
                pause = self._every * (50 + secrets.randbelow(51)) / 100
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._closing.wait(), pause)

    async def work(self) -> bool:
        """Answer some requests and send some mails. Return whether there were any."""
        answered = await self._answer_requests()
        return await self._send_mails() or answered

    async def _answer_requests(self) -> bool:
        await self._operate()
        return await self._outbox.is_due(requests=True) and await self._requests.resolve() > 0

    async def _operate(self) -> None:
        now = self._clock()
        if now >= self._count_at:
            self._count_at = now + _COUNTING
            self._backlog = await self._outbox.backlog()
        if now >= self._clean_at:
            while await self._outbox.delete_old():
                pass
            self._clean_at = now + _CLEANING

    async def _send_mails(self) -> bool:
        if self._unrecorded is not None:
            await self._record(self._unrecorded)
        if (self._is_down and self._clock() < self._probe_at) or not await self._outbox.is_due(requests=False):
            return False
        return await self._send_batch()

    async def _send_batch(self) -> bool:
        """Send mails over one connection. Return whether to go on at once."""
        leased: list[LeasedMail] = []
        has_answered = False
        try:
            async with self._connected() as delivery:
                leased += await self._outbox.lease(PER_CONNECTION)
                if not leased:
                    return False
                deadline = self._clock() + _BATCH_TIME
                while leased and not self._closing.is_set() and self._clock() < deadline:
                    if await self._deliver(delivery, leased[0]):
                        has_answered = True
                        await self._note_answer()
                    del leased[0]
        except TransportDown as error:
            if leased:
                await self._no_answer(leased.pop(0), error.reason, was_first=not has_answered)
            else:
                await self._note_outage(error.reason)
        for mail in leased:
            await self._outbox.release(mail)
        return not self._is_down

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[Delivery]:
        """A connection. Raises TransportDown if it takes too long."""
        connection = self._transport.connect()
        try:
            async with asyncio.timeout(_CONNECT_TIME):
                delivery = await connection.__aenter__()
        except TimeoutError:
            raise TransportDown(f"no connection within {_CONNECT_TIME:.0f} s") from None
        try:
            yield delivery
        except BaseException as error:
            await connection.__aexit__(type(error), error, error.__traceback__)
            raise
        await connection.__aexit__(None, None, None)

    async def _note_answer(self) -> None:
        self._failures = 0
        if self._is_down:
            self._is_down = False
            await self._outbox.hasten()

    async def _no_answer(self, mail: LeasedMail, reason: str, *, was_first: bool) -> None:
        """Retry a mail for which the connection was cut or got silent. A server that ends a connection after some mails
        works."""
        self._note(mail, "retried")
        await self._outbox.retry(mail, reason, is_outage=True)
        if was_first:
            self._failures += 1
            if self._is_down or self._failures >= FAILURES:
                await self._note_outage(reason)

    async def _note_outage(self, reason: str) -> None:
        log.warning("no mail can be sent (%s)", reason)
        self._is_down, self._probe_at = True, self._clock() + self._probe
        await self._outbox.note_outage(reason)

    async def _deliver(self, delivery: Delivery, leased: LeasedMail) -> bool:
        """Send one mail, or give it up. Return whether the server answered."""
        if leased.mail.expires_at.timestamp() <= self._now():
            self._note(leased, "expired")
            await self._outbox.give_up(leased, f"too late after {leased.attempts} attempts")
            return False
        try:
            envelope = self._composed(leased)
            async with asyncio.timeout(_MAIL_TIME):
                await delivery.send(envelope.message, sender=envelope.sender, recipient=envelope.recipient)
        except TimeoutError:
            raise TransportDown(f"no answer within {_MAIL_TIME:.0f} s") from None
        except DeliveryFailed as error:
            await self._refused(leased, error)
        else:
            self._note(leased, "sent")
            await self._record(leased)
        return True

    async def _refused(self, leased: LeasedMail, error: DeliveryFailed) -> None:
        if error.is_permanent:
            self._note(leased, "refused")
            log.warning("a mail of the kind %s was refused (%s)", leased.mail.kind, error.reason)
            await self._outbox.give_up(leased, error.reason)
        else:
            self._note(leased, "retried")
            await self._outbox.retry(leased, error.reason, is_outage=False)

    async def _record(self, leased: LeasedMail) -> None:
        """Record that a mail was sent, as soon as the database is up: another attempt would send it a second time."""
        self._unrecorded = leased
        await self._outbox.sent(leased)
        self._unrecorded = None

    def _composed(self, leased: LeasedMail) -> Envelope:
        """The message. A fault in a text must not stop the mails that wait behind it, and can be mended by a reload."""
        try:
            return self.composer.compose(leased.mail)
        except DeliveryFailed:
            raise
        except Exception as error:
            log.exception("a mail of the kind %s cannot be composed", leased.mail.kind)
            raise DeliveryFailed(f"cannot be composed: {type(error).__name__}", is_permanent=False) from None

    def _note(self, leased: LeasedMail, outcome: str) -> None:
        self._counts[leased.mail.kind, outcome] += 1


def open_sender(settings: Settings, outbox: OutboxStore, requests: RequestResolver) -> Sender:
    """The sender. Raises ConfigurationError for unusable texts."""
    composer = Composer(settings, catalogue_of(settings))
    return Sender(outbox, requests, open_transport(settings), composer, every=EVERY)


def catalogue_of(settings: Settings) -> Catalogue:
    """The texts of the configured languages. Raises ConfigurationError."""
    pages = settings.accounts.pages or PageSettings()
    return Catalogue.load(pages.languages, None if pages.messages is None else Path(pages.messages))


def open_transport(settings: Settings, *, record: Recorder | None = None) -> MailTransport:
    """The configured transport. `record` receives each line of the conversation, without credentials."""
    mail, public_url = settings.mail, settings.server.public_url
    assert mail is not None and public_url is not None, "the settings check both"
    if mail.smtp is None:
        assert mail.folder is not None, "the settings name a server or a folder"
        return FolderTransport(Path(mail.folder))
    from gateway.accounts.mail.smtp import SmtpTransport  # Imports aiosmtplib.

    return SmtpTransport(mail.smtp.reveal(), client_host=_client_host(public_url), record=record)


def _client_host(public_url: str) -> str:
    """The argument of EHLO: a name, or an address in brackets (RFC 5321 4.1.3)."""
    host = urlsplit(public_url).hostname or "localhost"
    try:
        address = ip_address(host)
    except ValueError:
        return host
    return f"[IPv6:{address}]" if address.version == 6 else f"[{address}]"
