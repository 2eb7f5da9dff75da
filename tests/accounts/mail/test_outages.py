"""Servers that refuse, get silent or close the connection at each step, clocks that jump, and floods of requests."""

import asyncio
import ssl
from collections import Counter
from collections.abc import AsyncIterator
from datetime import timedelta
from email.message import EmailMessage

import pytest
from sqlalchemy import Connection, func, select

import gateway.storage.outbox
from gateway.accounts.mail.ports import LeasedMail
from gateway.accounts.mail.sender import FAILURES
from gateway.accounts.mail.smtp import SmtpTransport
from gateway.accounts.mail.transport import DeliveryFailed, TransportDown
from gateway.errors import StorageUnavailable
from gateway.storage.outbox import Addressee
from gateway.storage.tables import audit, outbox
from tests.accounts.mail.mailing import Mailing, make_mailing
from tests.support.databases import Clock
from tests.support.faulty_smtp import CUT, HANG, FaultySmtpServer, faulty_smtp_server
from tests.support.smtp import SmtpServer
from tests.support.upstreams import Authority

SENDER, ANN = "no-reply@example.com", "ann@example.com"
BRIEF = 0.2  # seconds for a step, in place of ten, where the server gets silent


async def send(server: FaultySmtpServer, address: str, *, step: float | None = None) -> None:
    if step is None:
        step = BRIEF if HANG in server.faults.values() else 10
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = SENDER, ANN, "Hello"
    message.set_content("Hello")
    transport = SmtpTransport(address.replace("PORT", str(server.port)), client_host="gateway.example.com", step=step)
    async with transport.connect() as delivery:
        await delivery.send(message, sender=SENDER, recipient=ANN)


OUTAGES = ["421 closing", "451 later", "554 no service", HANG, CUT]


@pytest.mark.parametrize("fault", OUTAGES)
@pytest.mark.parametrize("step", ["greeting", "EHLO", "STARTTLS", "handshake", "AUTH"])
async def test_a_fault_before_the_first_mail_is_an_outage(
    step: str, fault: str, mail_authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(mail_authority.file))
    address = "smtp+plain://user:word@localhost:PORT" if step == "AUTH" else "smtp://localhost:PORT"
    offers = ("AUTH PLAIN",) if step == "AUTH" else ("STARTTLS",)
    context = mail_authority.context("localhost")
    if step == "handshake" and fault not in (HANG, CUT):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)  # without a certificate
        fault = "alert"
    async with faulty_smtp_server(offers=offers, context=context, faults={step: fault}) as server:
        if fault == "alert":
            server.faults = {}
        with pytest.raises(TransportDown):
            await send(server, address)
    assert server.received == []


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("421 closing", TransportDown),
        ("530 log in first", TransportDown),
        (HANG, TransportDown),
        (CUT, TransportDown),
        ("451 later", False),
        ("452 disk full", False),
        ("550 never", True),
        ("554 never", True),
    ],
)
@pytest.mark.parametrize("step", ["MAIL", "RCPT", "DATA", "content"])
async def test_a_fault_of_a_mail_is_an_outage_or_temporary_or_permanent(
    step: str, fault: str, expected: type[Exception] | bool
) -> None:
    async with faulty_smtp_server(faults={step: fault}) as server:
        with pytest.raises((TransportDown, DeliveryFailed)) as failed:
            await send(server, "smtp+plain://localhost:PORT")
    if isinstance(expected, bool):
        assert isinstance(failed.value, DeliveryFailed) and failed.value.is_permanent is expected
    else:
        assert isinstance(failed.value, expected)


@pytest.mark.parametrize("fault", OUTAGES)
async def test_a_fault_after_the_mail_changes_nothing(fault: str) -> None:
    async with faulty_smtp_server(faults={"QUIT": fault}) as server:
        await send(server, "smtp+plain://localhost:PORT", step=2)
    assert server.received == [ANN]


# ---- the sender


@pytest.fixture
async def server() -> AsyncIterator[FaultySmtpServer]:
    async with faulty_smtp_server() as made:
        yield made


@pytest.fixture
def faulty(mailing: Mailing, server: FaultySmtpServer, clock: Clock) -> Mailing:
    """A replica whose server is `server`."""
    transport = SmtpTransport(server.address, client_host="gateway.example.com")
    return make_mailing(mailing.database, clock, transport=transport)


async def write(mailing: Mailing, count: int, *, first: int = 0) -> list[str]:
    """Write mails to `user<number>@example.com`, in this order."""
    recipients = [f"user{number}@example.com" for number in range(first, first + count)]

    def work(connection: Connection) -> None:
        for recipient in recipients:
            mailing.outbox.write(
                connection, "test", Addressee(recipient, recipient), mailing.clock.instant, lifetime=timedelta(hours=1)
            )

    await mailing.database.write(work, limit=20)
    return recipients


async def waiting(mailing: Mailing) -> int:
    query = select(func.count()).where(outbox.c.sent_at.is_(None), outbox.c.given_up_at.is_(None))
    return int(await mailing.database.read(lambda connection: connection.execute(query).scalar_one()))


@pytest.mark.parametrize(
    ("step", "fault"),
    [("RCPT", CUT), ("RCPT", "421 closing"), ("DATA", "530 log in"), ("content", CUT)],
)
async def test_a_mail_that_the_server_never_answers_stops_no_other(
    faulty: Mailing, server: FaultySmtpServer, clock: Clock, step: str, fault: str
) -> None:
    recipients = await write(faulty, 5)
    server.faults, server.faulty = {step: fault}, frozenset(recipients[1:2])
    await faulty.drain()
    await write(faulty, 4, first=5)
    await faulty.drain()
    assert sorted(set(server.received) - server.faulty) == [f"user{number}@example.com" for number in (0, *range(2, 9))]
    before = server.attempts
    for _ in range(12):
        clock.now += 50  # ten minutes
        await faulty.drain()
    assert server.attempts - before <= 3, "its own schedule: after 10 s, 1 min and 5 min"


async def test_a_server_that_answers_no_mail_is_tried_with_one_mail_at_a_time(
    faulty: Mailing, server: FaultySmtpServer, clock: Clock
) -> None:
    recipients = await write(faulty, 25)
    server.faults = {"MAIL": CUT}
    for _ in range(12):
        await faulty.drain()
        clock.now += 15  # three minutes
    listed = await faulty.outbox.listed()
    assert all((mail.reason or "").startswith("outage: ") for mail in listed)
    assert sum(mail.attempts for mail in listed) <= 12 + FAILURES
    server.faults = {}
    clock.now += 15
    await faulty.drain()
    clock.now += 45
    await faulty.drain()
    assert Counter(server.received) == Counter(recipients)


async def test_a_slow_greeting_does_not_use_up_the_lease(
    faulty: Mailing, server: FaultySmtpServer, clock: Clock, mailing: Mailing
) -> None:
    """A server can delay its greeting on purpose. The lease begins afterwards."""

    def delay() -> None:
        clock.now += 40

    server.on_connection = delay
    recipients = await write(faulty, 30)
    await faulty.drain()
    assert server.received == recipients


async def test_a_mail_that_is_sent_while_the_database_goes_down_is_not_sent_again(
    faulty: Mailing, server: FaultySmtpServer, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipients = await write(faulty, 3)
    record, failures = faulty.outbox.sent, [True, True]

    async def failing(leased: LeasedMail) -> None:
        if failures:
            failures.pop()
            raise StorageUnavailable("database", "down")
        await record(leased)

    monkeypatch.setattr(faulty.outbox, "sent", failing)
    for _ in range(2):
        with pytest.raises(StorageUnavailable):
            await faulty.drain()
    clock.now += 60  # the lease of the batch
    await faulty.drain()
    assert server.received == recipients


@pytest.mark.parametrize("hours", [2, 48])
async def test_a_clock_that_is_set_back_delays_no_mail(
    mailing: Mailing, smtp_server: SmtpServer, clock: Clock, hours: int
) -> None:
    """The clock of a replica ran ahead. It wrote and leased mails until it died."""
    clock.now += hours * 3600
    recipients = await write(mailing, 4)
    assert len(await mailing.outbox.lease(2)) == 2
    clock.now -= hours * 3600
    await make_mailing(mailing.database, clock, smtp_server.address).drain()
    assert sorted(each.recipient for each in smtp_server.received) == recipients
    assert await waiting(mailing) == 0


async def test_a_replica_with_other_keys_leaves_mails_and_requests_to_the_others(
    mailing: Mailing, smtp_server: SmtpServer, clock: Clock
) -> None:
    """A rolling restart replaces storage.encryption_keys one replica after the other."""
    await mailing.account()
    await mailing.account("bob@example.com")
    old = make_mailing(mailing.database, clock, smtp_server.address, key=b"f" * 32)
    await mailing.ask("asked-reset", ANN)
    await mailing.requests.resolve()
    await mailing.ask("asked-reset", "bob@example.com")
    await old.drain()
    clock.now += 10
    await mailing.drain()
    assert {each.recipient for each in smtp_server.received} == {ANN, "bob@example.com"}


async def test_kinds_of_another_version_wait_for_a_replica_of_that_version(
    mailing: Mailing, smtp_server: SmtpServer
) -> None:
    await mailing.account()
    await mailing.ask("asked-later", ANN)  # type: ignore[arg-type]
    await mailing.ask("asked-reset", ANN)
    await mailing.drain()
    assert len(smtp_server.received) == 1
    assert await waiting(mailing) == 1


async def test_a_silent_server_does_not_delay_requests(
    mailing: Mailing, clock: Clock, server: FaultySmtpServer
) -> None:
    transport = SmtpTransport(server.address, client_host="gateway.example.com", step=30)
    faulty = make_mailing(mailing.database, clock, transport=transport, every=0.02)
    server.faults = {"MAIL": HANG}
    await write(faulty, 1)
    async with asyncio.timeout(20):
        connected = asyncio.Event()
        server.on_connection = connected.set
        faulty.sender.start()
        await connected.wait()
        await faulty.account()
        await faulty.ask("asked-reset", ANN)
        kinds = select(outbox.c.kind).order_by(outbox.c.kind)
        while await faulty.database.read(lambda c: c.execute(kinds).scalars().all()) != ["reset", "test"]:
            await asyncio.sleep(0.01)
    await faulty.sender.close(within=0.1)


# ---- floods


async def test_requests_of_strangers_are_dropped_while_too_many_wait(
    mailing: Mailing, monkeypatch: pytest.MonkeyPatch, smtp_server: SmtpServer
) -> None:
    monkeypatch.setattr(gateway.storage.outbox, "MOST_WAITING", 30)
    for number in range(40):
        await mailing.ask("asked-register", f"user{number}@example.com")
    assert await waiting(mailing) == 30
    await mailing.drain()
    assert await waiting(mailing) == 0 and len(smtp_server.received) == 30
    await mailing.outbox.backlog()
    await mailing.ask("asked-register", ANN)
    assert await waiting(mailing) == 1


async def test_mails_that_were_given_up_are_kept_in_a_bounded_number(
    mailing: Mailing, monkeypatch: pytest.MonkeyPatch, smtp_server: SmtpServer, clock: Clock
) -> None:
    monkeypatch.setattr(gateway.storage.outbox, "MOST_GIVEN_UP", 5)
    recipients = await write(mailing, 8)
    smtp_server.answers = dict.fromkeys(recipients, "550 never")
    await mailing.drain()
    await mailing.outbox.delete_old()
    assert len(await mailing.outbox.listed()) == 5
    failures = select(func.count()).where(audit.c.action == "mail.failed")
    assert await mailing.database.read(lambda connection: connection.execute(failures).scalar_one()) == 8
