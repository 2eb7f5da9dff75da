"""The sender: a task of every replica that takes mails out of the outbox and delivers them.

    working ──no connection──▶ down          mails wait, each with the reason
       ▲                         │ every PROBE seconds
       └──── a connection ───────┘           mails that waited for the server are due at once

The sender polls. If it woke up at every write, the work for a known address would delay the next requests, and the
time of responses would tell which addresses are known.
"""

import asyncio
import logging
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
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
# A batch ends early enough for its last mail to be sent within the lease of 60 seconds.
_BATCH_TIME: Final = 30.0
_MAIL_TIME: Final = 25.0
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
        self._probe_at = self._clean_at = self._count_at = clock()
        self._counts: Counter[tuple[str, str]] = Counter()
        self._backlog = Backlog(0, 0.0)
        self._closing = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        """Finish the mail that is being sent, for at most a few seconds. Another replica sends the others."""
        self._closing.set()
        if self._task is not None:
            await asyncio.wait((self._task,), timeout=_GOODBYE)
            self._task.cancel()

    def samples(self) -> Iterator[Sample]:
        """Counts of mails by kind and outcome, and the mails that wait."""
        for labels, count in self._counts.items():
            yield Sample("gateway_mail_total", labels, count)
        yield Sample("gateway_mail_waiting", (), self._backlog.waiting)
        yield Sample("gateway_mail_oldest_seconds", (), self._backlog.oldest)

    async def _run(self) -> None:
        while not self._closing.is_set():
            try:
                has_worked = await self.work()
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
        """Send due mails, and return whether there were any."""
        await self._operate()
        if self._is_down:
            await self._look_for_server()
        if not await self._outbox.is_due():
            return False
        resolved = await self._requests.resolve()
        if self._is_down:
            return resolved > 0
        leased = await self._outbox.lease(PER_CONNECTION)
        if leased:
            await self._send(leased)
        return resolved > 0 or len(leased) > 0

    async def _operate(self) -> None:
        now = self._clock()
        if now >= self._count_at:
            self._count_at = now + _COUNTING
            self._backlog = await self._outbox.backlog()
        if now >= self._clean_at:
            while await self._outbox.delete_old():
                pass
            self._clean_at = now + _CLEANING

    async def _look_for_server(self) -> None:
        if self._clock() < self._probe_at:
            return
        self._probe_at = self._clock() + self._probe
        if (await self._outbox.backlog()).waiting == 0:
            self._is_down = False  # the next mail finds out
            return
        try:
            async with self._transport.connect():
                pass
        except TransportDown as error:
            log.warning("no mail can be sent (%s)", error.reason)
            await self._outbox.note_outage(error.reason)
            return
        self._is_down = False
        await self._outbox.hasten()

    async def _send(self, leased: Sequence[LeasedMail]) -> None:
        """Deliver mails over one connection."""
        waiting, deadline = list(leased), self._clock() + _BATCH_TIME
        count = len(waiting)
        try:
            async with self._transport.connect() as delivery:
                while waiting and not self._closing.is_set() and self._clock() < deadline:
                    await self._deliver(delivery, waiting[0])
                    del waiting[0]
        except TransportDown as error:
            # A server that ends a connection after some mails works.
            is_down = len(waiting) == count
            failed = waiting if is_down else waiting[:1]
            del waiting[: len(failed)]
            await self._wait_for_server(failed, error.reason, is_down=is_down)
        for mail in waiting:
            await self._outbox.release(mail)

    async def _wait_for_server(self, failed: Sequence[LeasedMail], reason: str, *, is_down: bool) -> None:
        if is_down:
            log.warning("no mail can be sent (%s)", reason)
            self._is_down, self._probe_at = True, self._clock() + self._probe
        for mail in failed:
            self._note(mail, "retried")
            await self._outbox.retry(mail, reason, is_outage=True)

    async def _deliver(self, delivery: Delivery, leased: LeasedMail) -> None:
        if leased.mail.expires_at.timestamp() <= self._now():
            self._note(leased, "expired")
            await self._outbox.give_up(leased, f"too late after {leased.attempts} attempts")
            return
        try:
            envelope = self._composed(leased)
            async with asyncio.timeout(_MAIL_TIME):
                await delivery.send(envelope.message, sender=envelope.sender, recipient=envelope.recipient)
        except TimeoutError:
            raise TransportDown(f"no answer within {_MAIL_TIME:.0f} s") from None
        except DeliveryFailed as error:
            if error.is_permanent:
                self._note(leased, "refused")
                log.warning("a mail of the kind %s was refused (%s)", leased.mail.kind, error.reason)
                await self._outbox.give_up(leased, error.reason)
            else:
                self._note(leased, "retried")
                await self._outbox.retry(leased, error.reason, is_outage=False)
        else:
            self._note(leased, "sent")
            await self._outbox.sent(leased)

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
