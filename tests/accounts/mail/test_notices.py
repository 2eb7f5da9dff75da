"""Notices to the owner of an account: who gets which, and when."""

from datetime import timedelta

import pytest

from gateway.accounts.links import VERIFYING, link_digest
from gateway.accounts.mail.ports import MailRequest
from gateway.accounts.store import NewBrowserSession
from gateway.identity.user import COMMAND_LINE, Actor, ClientInfo
from gateway.storage.browser_sessions import StoredBrowserSessions
from gateway.storage.sessions import Sessions
from tests.accounts.mail.application import Client
from tests.accounts.mail.mailing import Mailing, address
from tests.support.databases import Clock, new_session
from tests.support.smtp import SmtpServer

ANN = "ann@example.com"
HOME = ClientInfo("192.0.2.7", "Mozilla/5.0 Firefox/143.0", "1")
ABROAD = ClientInfo("198.51.100.9", "Mozilla/5.0 Firefox/143.0", "2")
PROGRAM = ClientInfo("192.0.2.8", "python-httpx/0.28", "3")


class SignIns:
    """Sign-ins to one account, by tokens and by browsers."""

    def __init__(self, mailing: Mailing, user_id: str) -> None:
        self.mailing = mailing
        self.user_id = user_id
        self._tokens = Sessions(mailing.database, outbox=mailing.outbox, clock=mailing.clock)
        self._browsers = StoredBrowserSessions(mailing.database, outbox=mailing.outbox, clock=mailing.clock)
        self._number = 0

    async def by(self, kind: str, origin: ClientInfo) -> None:
        clock = self.mailing.clock
        self._number += 1
        if kind == "tokens":
            session = new_session(clock)._replace(origin=origin)
            assert await self._tokens.open(self.user_id, session, verified="hash")
            return
        until = clock.instant + timedelta(days=7)
        digest = bytes([self._number]) * 32
        browser = NewBrowserSession(f"b{self._number}", digest, until, remember=False, origin=origin)
        assert await self._browsers.begin(self.user_id, browser, most=50, verified="hash")


@pytest.fixture
async def sign_ins(mailing: Mailing) -> SignIns:
    return SignIns(mailing, (await mailing.account()).id)


def subjects(server: SmtpServer) -> list[str]:
    return [str(each.message["Subject"]) for each in server.received]


@pytest.mark.parametrize("second", ["tokens", "browser"])
@pytest.mark.parametrize("first", ["tokens", "browser"])
async def test_a_sign_in_from_a_new_place_is_mailed_whatever_begins_the_session(
    sign_ins: SignIns, smtp_server: SmtpServer, first: str, second: str
) -> None:
    await sign_ins.by(first, HOME)
    await sign_ins.by(second, HOME)
    await sign_ins.mailing.drain()
    assert subjects(smtp_server) == []
    await sign_ins.by(second, ABROAD)
    await sign_ins.mailing.drain()
    assert subjects(smtp_server) == ["New sign-in to Example"]
    assert "198.51.100.9" in smtp_server.received[0].text


async def test_a_program_of_a_known_network_is_a_new_place(sign_ins: SignIns, smtp_server: SmtpServer) -> None:
    for origin in (HOME, PROGRAM, PROGRAM):
        await sign_ins.by("tokens", origin)
    await sign_ins.mailing.drain()
    assert subjects(smtp_server) == ["New sign-in to Example"]


@pytest.mark.parametrize("kind", ["tokens", "browser"])
async def test_a_sign_in_to_an_account_that_was_not_used_for_long_is_mailed(
    sign_ins: SignIns, smtp_server: SmtpServer, clock: Clock, kind: str
) -> None:
    await sign_ins.by(kind, HOME)
    clock.now += 91 * 86400
    await sign_ins.by(kind, ABROAD)
    await sign_ins.mailing.drain()
    assert subjects(smtp_server) == ["New sign-in to Example"]


async def test_a_program_that_signs_in_often_leaves_one_record_a_day(sign_ins: SignIns, clock: Clock) -> None:
    for _ in range(6):
        await sign_ins.by("tokens", PROGRAM)
        clock.now += 8 * 3600
    began = [each for each in await sign_ins.mailing.actions() if each == "session.began"]
    assert len(began) == 2


async def test_each_of_two_changes_of_the_address_is_told_to_both_addresses(
    mailing: Mailing, smtp_server: SmtpServer
) -> None:
    """The owner changes the address, and an intruder does so again a minute later."""
    user = await mailing.account("old@example.com")
    for new in ("own@example.com", "eve@evil.example"):
        await mailing.outbox.ask(MailRequest("asked-email", address(new), user.id))
        await mailing.drain()
        token = smtp_server.mail_to(new).token
        digest = link_digest(token)
        assert digest is not None
        link = await mailing.links.find(digest, VERIFYING)
        assert link is not None
        assert await mailing.links.change_email(link, by=Actor(user.id))
        await mailing.drain()
    changed = [each.recipient for each in smtp_server.received if "is changed" in str(each.message["Subject"])]
    assert changed == ["old@example.com", "own@example.com", "own@example.com", "eve@evil.example"]


async def test_a_password_an_api_key_and_an_address_are_changed_with_a_notice(client: Client) -> None:
    access = await client.register()
    await client.post("/api-keys", {"name": "ci"}, token=access)
    await client.post("/email", {"email": "new@example.com"}, token=access)
    body = {"current_password": "correct horse battery", "new_password": "another long password"}
    assert (await client.post("/password", body, token=access)).status_code == 204
    await client.mail(ANN, count=3)
    subjects = {str(each.message["Subject"]) for each in client.server.received if each.recipient == ANN}
    assert len(subjects) == 3, subjects


async def test_a_password_that_an_operator_sets_is_told_to_the_owner(mailing: Mailing, smtp_server: SmtpServer) -> None:
    user = await mailing.account()
    await mailing.users.set_password(user.id, "hash-2", by=COMMAND_LINE)
    await mailing.drain()
    assert [each.recipient for each in smtp_server.received] == [ANN]
