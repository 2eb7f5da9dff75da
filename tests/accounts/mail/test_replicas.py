"""Two replicas: one link many times at once, and many mails while one replica is killed and the server is down.

The figures of docs/mail.md are those of MAIL_ATTEMPTS=1000 and MAIL_COUNT=1000.
"""

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from sqlalchemy import Connection

from gateway.accounts.links import RESETTING, link_digest
from gateway.errors import StorageUnavailable
from gateway.identity.user import Actor, UserRecord
from gateway.storage.database import COMMAND, Database
from gateway.storage.outbox import LEASE, Addressee
from tests.accounts.mail.mailing import Mailing, address, make_mailing
from tests.support.databases import Clock
from tests.support.launcher import launch
from tests.support.smtp import SmtpServer

ATTEMPTS = int(os.environ.get("MAIL_ATTEMPTS", "80"))
COUNT = int(os.environ.get("MAIL_COUNT", "40"))


@pytest.fixture
async def other(mailing: Mailing, prepared_url: str, clock: Clock) -> AsyncIterator[Mailing]:
    """A second replica, with its own connections."""
    database = Database.open(prepared_url, limits=COMMAND)
    yield make_mailing(database, clock)
    await database.close()


async def test_CVE_2026_73431_one_link_many_times_at_once_succeeds_once(mailing: Mailing, other: Mailing) -> None:
    """Also CVE-2026-65824."""
    user = await mailing.account()
    token = await mailing.links.issue_reset(user.id, lifetime=600, deliver=False, by=Actor(user.id))
    digest = link_digest(str(token))
    assert digest is not None
    link = await mailing.links.find(digest, RESETTING)
    assert link is not None
    attempts = [
        replica.links.reset(link, f"hash-{number}", by=Actor(user.id))
        for number in range(ATTEMPTS // 2)
        for replica in (mailing, other)
    ]
    results = await asyncio.gather(*attempts, return_exceptions=True)
    # SQLite turns some away, because its lock is not fair between processes.
    assert {type(result) for result in results} <= {UserRecord, type(None), StorageUnavailable}
    assert sum(isinstance(result, UserRecord) for result in results) == 1
    assert await mailing.links.find(digest, RESETTING) is None


async def test_one_of_many_invitations_of_an_address_at_once_stays_open(mailing: Mailing, other: Mailing) -> None:
    invited = [
        replica.links.invite(address("bob@example.com"), frozenset(), lifetime=600, deliver=False, by=Actor("command"))
        for _ in range(8)
        for replica in (mailing, other)
    ]
    results = await asyncio.gather(*invited, return_exceptions=True)
    # SQLite turns some away, because its lock is not fair between processes.
    assert {type(result) for result in results} <= {tuple, StorageUnavailable}
    made = [result for result in results if isinstance(result, tuple)]
    (last,) = await mailing.links.open_invitations()
    assert last.id in {invitation.id for invitation, _ in made}


# A replica with its own process and event loop, which sends until it is killed.
REPLICA = """
import asyncio, sys
from gateway.storage.database import COMMAND, Database
from tests.accounts.mail.mailing import make_mailing
from tests.support.databases import Clock

async def main():
    database = Database.open(sys.argv[1], limits=COMMAND)
    mailing = make_mailing(database, Clock(), sys.argv[2])
    while True:
        if not await mailing.sender.work():
            await asyncio.sleep(0.05)

asyncio.run(main())
"""


async def test_no_mail_is_lost_when_a_replica_is_killed_and_the_server_is_down(
    mailing: Mailing, prepared_url: str, smtp_server: SmtpServer, clock: Clock
) -> None:
    def write(connection: Connection) -> None:
        for number in range(COUNT):
            to = Addressee(f"user{number}@example.com", f"user{number}@example.com")
            mailing.outbox.write(connection, "test", to, clock.instant, lifetime=timedelta(hours=1))

    await mailing.database.write(write, limit=20)
    with open(os.devnull, "r+b") as null:
        none, arguments = null.fileno(), ["-c", REPLICA, prepared_url, smtp_server.address]
        replica = launch(arguments, stdin=none, stdout=none, stderr=none, env=os.environ)
    try:
        async with asyncio.timeout(20):
            while len(smtp_server.received) < COUNT // 4:
                await asyncio.sleep(0.005)
    finally:
        replica.kill()
        replica.wait()
    smtp_server.stop()
    before = len(smtp_server.received)
    for _ in range(3):
        await mailing.drain()
        clock.now += 200  # ten minutes without a server
    assert len(smtp_server.received) == before
    smtp_server.start()
    clock.now += LEASE.total_seconds()
    await mailing.drain()
    sent = Counter(received.recipient for received in smtp_server.received)
    assert set(sent) == {f"user{number}@example.com" for number in range(COUNT)}
    assert sum(sent.values()) - COUNT <= max(1, COUNT // 100), "at least once, and hardly ever twice"
    assert (await mailing.outbox.backlog()).waiting == 0
