"""The sender: requests and mails out of the outbox, retries, outages and replicas that die."""

import asyncio
import re
from collections import Counter

import pytest
from sqlalchemy import select

from gateway.accounts.mail.composing import Envelope
from gateway.accounts.mail.ports import MailRequest, OutgoingMail
from gateway.accounts.mail.transport import FolderTransport
from gateway.identity.user import COMMAND_LINE
from gateway.storage.database import Database
from gateway.storage.sessions import Sessions
from gateway.storage.tables import outbox
from tests.accounts.mail.mailing import Mailing, address, make_mailing
from tests.support.databases import Clock, new_session
from tests.support.smtp import SmtpServer

ANN = "ann@example.com"


async def rows(mailing: Mailing) -> list[dict[str, object]]:
    found = await mailing.database.read(lambda connection: connection.execute(select(outbox)).all())
    return [dict(zip(outbox.columns.keys(), row, strict=True)) for row in found]


async def test_a_forgotten_password_becomes_a_mail_with_a_link(mailing: Mailing, smtp_server: SmtpServer) -> None:
    await mailing.account()
    await mailing.ask("asked-reset", ANN)
    await mailing.drain()
    (received,) = smtp_server.received
    assert received.recipient == ANN
    assert received.link.startswith("https://app.example.com/account/reset?token=gwl_")
    assert received.token in received.html


async def test_a_request_for_an_unknown_address_ends_without_a_mail(mailing: Mailing, smtp_server: SmtpServer) -> None:
    await mailing.ask("asked-reset", ANN)
    await mailing.drain()
    assert (smtp_server.received, await rows(mailing)) == ([], [])


async def test_CVE_2019_19844_a_mail_goes_to_the_stored_address(mailing: Mailing, smtp_server: SmtpServer) -> None:
    await mailing.account("mike@example.com")
    twins = ["MIKE@EXAMPLE.COM", "ｍｉｋｅ@example.com", "mıke@example.com", "mike@EXAMPLE.com"]
    for twin in twins:
        await mailing.ask("asked-reset", twin)
    await mailing.drain()
    assert {received.recipient for received in smtp_server.received} == {"mike@example.com"}
    assert len(smtp_server.received) == 3, "ı is another letter than i"


async def test_a_mail_at_rest_shows_no_link_and_a_sent_one_no_content(
    mailing: Mailing, smtp_server: SmtpServer
) -> None:
    await mailing.account()
    await mailing.ask("asked-reset", ANN)
    await mailing.requests.resolve()
    (row,) = await rows(mailing)
    assert isinstance(row["data"], bytes) and b"gwl_" not in row["data"]
    await mailing.drain()
    (row,) = await rows(mailing)
    assert row["data"] == b"" and row["sent_at"] is not None
    assert smtp_server.received[0].token not in repr(row)


async def test_a_second_attempt_has_the_same_message_id_and_date(
    mailing: Mailing, smtp_server: SmtpServer, clock: Clock
) -> None:
    await mailing.account()
    await mailing.ask("asked-reset", ANN)
    await mailing.requests.resolve()
    for _ in range(2):
        (leased,) = await mailing.outbox.lease(20)
        envelope = mailing.composer.compose(leased.mail)
        async with mailing.transport.connect() as delivery:
            await delivery.send(envelope.message, sender=envelope.sender, recipient=envelope.recipient)
        clock.now += 61  # The process dies: its lease ends.
    first, second = (received.message for received in smtp_server.received)
    assert first["Message-ID"] == second["Message-ID"]
    assert first["Date"] == second["Date"]


async def test_a_temporary_refusal_is_retried_on_the_schedule(
    mailing: Mailing, smtp_server: SmtpServer, clock: Clock
) -> None:
    user = await mailing.account()
    smtp_server.answers[ANN] = "451 try later"
    await mailing.users.set_password(user.id, "hash-2", by=COMMAND_LINE)
    await mailing.drain()
    waits = []
    for _ in range(6):
        (row,) = await rows(mailing)
        waits.append(round((row["due_at"] - clock.instant).total_seconds()))  # type: ignore[operator]
        clock.now += waits[-1]
        await mailing.drain()
    assert waits == [10, 60, 300, 900, 1800, 1800]
    del smtp_server.answers[ANN]
    clock.now += 1800
    await mailing.drain()
    assert len(smtp_server.received) == 1


async def test_a_permanent_refusal_ends_the_mail_with_an_audit_record(
    mailing: Mailing, smtp_server: SmtpServer
) -> None:
    await mailing.account()
    smtp_server.answers[ANN] = "550 no such user"
    await mailing.ask("asked-reset", ANN)
    await mailing.drain()
    (row,) = await rows(mailing)
    assert (row["given_up_at"] is not None, row["reason"], row["data"]) == (True, "550 no such user", b"")
    assert (await mailing.actions())[-1] == "mail.failed"
    assert {sample.labels: sample.value for sample in mailing.sender.samples() if sample.labels} == {
        ("reset", "refused"): 1
    }


async def test_a_mail_is_given_up_when_its_link_is_over(
    mailing: Mailing, smtp_server: SmtpServer, clock: Clock
) -> None:
    await mailing.account()
    smtp_server.answers[ANN] = "451 try later"
    await mailing.ask("asked-reset", ANN)
    for _ in range(40):
        await mailing.drain()
        clock.now += 60
    (row,) = await rows(mailing)
    assert row["given_up_at"] is not None and "too late" in str(row["reason"])
    assert smtp_server.received == []


async def test_an_outage_delays_every_mail_and_its_end_sends_them_at_once(
    mailing: Mailing, smtp_server: SmtpServer, clock: Clock
) -> None:
    for number in range(30):
        await mailing.account(f"user{number}@example.com")
        await mailing.ask("asked-reset", f"user{number}@example.com")
    smtp_server.stop()
    for _ in range(20):
        await mailing.drain()
        clock.now += 30  # ten minutes
    assert smtp_server.received == []
    waiting = await mailing.outbox.listed()
    assert len(waiting) == 30 and all("connecting" in (one.reason or "") for one in waiting)
    smtp_server.start()
    clock.now += 15
    await mailing.drain()
    assert Counter(received.recipient for received in smtp_server.received) == Counter(
        f"user{number}@example.com" for number in range(30)
    )


async def test_a_replica_that_starts_during_an_outage_sends_pending_changes(
    mailing: Mailing, smtp_server: SmtpServer, clock: Clock
) -> None:
    await mailing.account()
    await mailing.ask("asked-reset", ANN)
    smtp_server.stop()
    await mailing.drain()
    smtp_server.start()
    await make_mailing(mailing.database, clock, smtp_server.address).drain()
    assert len(smtp_server.received) == 1


async def test_one_mail_of_a_replica_that_dies_is_sent_by_another_after_its_lease(
    mailing: Mailing, smtp_server: SmtpServer, clock: Clock
) -> None:
    await mailing.account()
    await mailing.ask("asked-reset", ANN)
    await mailing.requests.resolve()
    assert len(await mailing.outbox.lease(20)) == 1
    other = make_mailing(mailing.database, clock, smtp_server.address)
    await other.drain()
    assert smtp_server.received == []
    clock.now += 60
    await other.drain()
    assert len(smtp_server.received) == 1


async def test_a_lost_lease_changes_nothing_any_more(mailing: Mailing, clock: Clock) -> None:
    await mailing.account()
    await mailing.ask("asked-reset", ANN)
    await mailing.requests.resolve()
    (lost,) = await mailing.outbox.lease(20)
    clock.now += 60
    (current,) = await mailing.outbox.lease(20)
    await mailing.outbox.retry(lost, "too slow", is_outage=False)
    await mailing.outbox.give_up(lost, "too slow")
    await mailing.outbox.release(lost)
    (row,) = await rows(mailing)
    assert (row["lease_until"], row["attempts"], row["given_up_at"]) == (current.until, 0, None)


async def test_replicas_never_lease_the_same_mail(mailing: Mailing, database: Database, clock: Clock) -> None:
    for number in range(60):
        await mailing.account(f"user{number}@example.com")
        await mailing.ask("asked-reset", f"user{number}@example.com")
    while await mailing.requests.resolve():
        pass
    taken = await asyncio.gather(*(mailing.outbox.lease(5) for _ in range(20)))
    ids = [leased.mail.id for batch in taken for leased in batch]
    assert len(ids) == len(set(ids)) == 60


async def test_a_key_that_is_gone_ends_a_mail_instead_of_blocking_the_queue(
    mailing: Mailing, smtp_server: SmtpServer, clock: Clock
) -> None:
    await mailing.account()
    await mailing.ask("asked-reset", ANN)
    await mailing.requests.resolve()
    other = make_mailing(mailing.database, clock, smtp_server.address, key=b"f" * 32)
    await other.drain()
    (row,) = await rows(mailing)
    assert "storage.encryption_keys" in str(row["reason"])
    assert smtp_server.received == []


async def test_the_same_notice_is_sent_once_in_five_minutes(
    mailing: Mailing, smtp_server: SmtpServer, clock: Clock
) -> None:
    user = await mailing.account()
    for number in range(3):
        await mailing.users.set_password(user.id, f"hash-{number}", by=COMMAND_LINE)
    await mailing.drain()
    assert len(smtp_server.received) == 1
    clock.now += 301
    await mailing.users.set_password(user.id, "hash-4", by=COMMAND_LINE)
    await mailing.drain()
    assert len(smtp_server.received) == 2


async def test_rows_that_are_over_are_deleted(mailing: Mailing, smtp_server: SmtpServer, clock: Clock) -> None:
    await mailing.account()
    await mailing.ask("asked-reset", ANN)
    await mailing.drain()
    assert len(await rows(mailing)) == 1
    clock.now += 1801
    assert await mailing.outbox.delete_old() == 2  # the mail and its link
    assert await rows(mailing) == []


async def test_the_backlog_counts_waiting_mails_and_the_age_of_the_oldest(mailing: Mailing, clock: Clock) -> None:
    assert await mailing.outbox.backlog() == (0, 0.0)
    await mailing.ask("asked-reset", ANN)
    clock.now += 7
    await mailing.ask("asked-reset", ANN)
    assert await mailing.outbox.backlog() == (2, 7.0)


async def test_a_mail_in_a_folder_is_one_private_file(
    database: Database, clock: Clock, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("mail") / "new"
    mailing = make_mailing(database, clock, transport=FolderTransport(folder))
    await mailing.account()
    await mailing.ask("asked-reset", ANN)
    await mailing.drain()
    (file,) = folder.iterdir()
    assert file.suffix == ".eml" and file.stat().st_mode & 0o777 == 0o600
    assert "To: ann@example.com" in file.read_text()
    assert re.search(r"^https://app\.example\.com/account/reset\?token=gwl_\w{38}$", file.read_text(), re.MULTILINE)
    assert folder.stat().st_mode & 0o777 == 0o700


async def test_a_mail_that_cannot_be_composed_stops_none_behind_it(
    mailing: Mailing, smtp_server: SmtpServer, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    await mailing.account()
    await mailing.account("bob@example.com")
    await mailing.ask("asked-reset", ANN)
    clock.now += 1
    await mailing.ask("asked-reset", "bob@example.com")
    compose = mailing.composer.compose

    def failing(mail: OutgoingMail) -> Envelope:
        if mail.recipient == ANN:
            raise ValueError("a faulty text")
        return compose(mail)

    monkeypatch.setattr(mailing.composer, "compose", failing)
    await mailing.drain()
    assert [each.recipient for each in smtp_server.received] == ["bob@example.com"]
    [waiting] = [row for row in await rows(mailing) if row["sent_at"] is None]
    assert waiting["reason"] == "cannot be composed: ValueError"
    monkeypatch.undo()
    clock.now += 10
    await mailing.drain()
    assert [each.recipient for each in smtp_server.received] == ["bob@example.com", ANN]


async def test_a_change_of_address_asked_for_before_a_reset_gets_no_link_after_it(
    mailing: Mailing, smtp_server: SmtpServer, clock: Clock
) -> None:
    """The session that asked must still be open when the sender answers."""
    user = await mailing.account()
    sessions, session = Sessions(mailing.database, clock=clock), new_session(clock)
    assert await sessions.open(user.id, session, verified="hash")
    await mailing.outbox.ask(MailRequest("asked-email", address("a@example.com"), user.id, session_id=session.id))
    await mailing.drain()
    assert {each.recipient for each in smtp_server.received} == {ANN, "a@example.com"}
    await mailing.outbox.ask(MailRequest("asked-email", address("b@example.com"), user.id, session_id=session.id))
    await sessions.end(user.id, session.id, reason="password", by=COMMAND_LINE)
    await mailing.drain()
    assert {each.recipient for each in smtp_server.received} == {ANN, "a@example.com"}
