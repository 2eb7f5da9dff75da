"""Outbox, links and sender over one database, as one replica has them."""

from dataclasses import dataclass
from typing import Any

import yaml
from sqlalchemy import select

from gateway.accounts.emails import EmailAddress, email_address
from gateway.accounts.links import LinkLifetimes
from gateway.accounts.mail.composing import Composer
from gateway.accounts.mail.ports import MailRequest, RequestKind
from gateway.accounts.mail.sender import EVERY, Sender, open_transport
from gateway.accounts.mail.transport import MailTransport
from gateway.accounts.texts.catalogue import Catalogue
from gateway.identity.user import ClientInfo, UserRecord
from gateway.settings.model import Settings
from gateway.storage.api_keys import ApiKeys
from gateway.storage.database import Database
from gateway.storage.encryption import Cipher
from gateway.storage.links import Links
from gateway.storage.mail_requests import MailRequests
from gateway.storage.outbox import Outbox
from gateway.storage.tables import audit
from gateway.storage.users import Users
from tests.settings.reading import settings_of
from tests.support.databases import Clock, create

ORIGIN = ClientInfo("192.0.2.7", "test", "request-1")
KEY = b"0123456789abcdef" * 2
ADMIN_ROLES = ("admin",)


def mail_settings(smtp: str = "smtp://localhost", **pages: Any) -> Settings:
    """Settings with mail, sessions and pages."""
    content = {
        "server": {"public_url": "https://app.example.com"},
        "mail": {"from": "Example <no-reply@example.com>", "smtp": smtp},
        "sessions": {},
        "accounts": {"pages": {"name": "Example", **pages}, "api_keys": {"max_ttl": "365d"}},
    }
    return settings_of(yaml.safe_dump(content))


@dataclass
class Mailing:
    """The parts of one replica."""

    database: Database
    clock: Clock
    settings: Settings
    outbox: Outbox
    users: Users
    api_keys: ApiKeys
    links: Links
    requests: MailRequests
    composer: Composer
    transport: MailTransport
    sender: Sender

    async def account(self, email: str = "ann@example.com", *roles: str) -> UserRecord:
        return await create(self.users, email, *roles)

    async def ask(self, kind: RequestKind, email: str, user_id: str | None = None) -> None:
        await self.outbox.ask(MailRequest(kind, email_address(email), user_id, ORIGIN))

    async def actions(self) -> list[str]:
        """The actions in the audit trail."""
        query = select(audit.c.action).order_by(audit.c.id)
        return list(await self.database.read(lambda connection: connection.execute(query).scalars().all()))

    async def drain(self) -> None:
        """Work until nothing is due."""
        while await self.sender.work():
            pass


def make_mailing(
    database: Database,
    clock: Clock,
    smtp: str = "smtp://localhost",
    *,
    key: bytes = KEY,
    transport: MailTransport | None = None,
    every: float = EVERY,
) -> Mailing:
    """One replica. Both clocks of its sender are `clock`."""
    settings = mail_settings(smtp)
    outbox = Outbox(database, Cipher([key]), clock=clock)
    users = Users(database, outbox=outbox, clock=clock)
    links = Links(database, outbox, keys_known_for=60.0, clock=clock)
    requests = MailRequests(database, outbox, LinkLifetimes.of(settings), clock=clock)
    composer = Composer(settings, Catalogue.load(["en"]))
    transport = transport or open_transport(settings)
    sender = Sender(outbox, requests, transport, composer, every=every, clock=clock, now=clock)
    api_keys = ApiKeys(database, outbox=outbox, clock=clock)
    return Mailing(database, clock, settings, outbox, users, api_keys, links, requests, composer, transport, sender)


def address(text: str) -> EmailAddress:
    return email_address(text)
