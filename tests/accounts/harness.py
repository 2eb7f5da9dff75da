"""The account services over a database, with a feed that records announcements."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from gateway.accounts.administration import Administration
from gateway.accounts.emails import email_address
from gateway.accounts.lockout import Lockout
from gateway.accounts.password_threads import PasswordThreads
from gateway.accounts.passwords import PasswordPool, chosen_password
from gateway.accounts.service import Accounts, TokenPair
from gateway.gate.rate_limits import RegistrationLimit
from gateway.identity.access_token import Tokens
from gateway.identity.keys import KeyRing, SigningKey
from gateway.identity.user import Claims, ClientInfo, UserRecord
from gateway.samples import Sample
from gateway.settings.model import AccountsSettings, PasswordSettings, Settings, TokensSettings
from gateway.storage.audit import AuditTrail
from gateway.storage.database import Database
from gateway.storage.sessions import Sessions
from gateway.storage.users import Users
from tests.support.databases import Clock

ORIGIN = ClientInfo("192.0.2.1", "curl/8", "request-1")
PASSWORD = "correct horse battery"


class Feed:
    """Records announcements, and checks that the announced change is committed."""

    connected = True

    def __init__(self, users: Users) -> None:
        self._users = users
        self.announced: list[tuple[str, UserRecord | None]] = []

    async def announce(self, user_id: str, record: UserRecord | None) -> None:
        assert await self._users.user(user_id) == record, "announced before it was committed"
        self.announced.append((user_id, record))

    def samples(self) -> tuple[Sample, ...]:
        return ()


@dataclass
class Harness:
    """The parts of the services."""

    database: Database
    clock: Clock
    settings: Settings
    users: Users
    sessions: Sessions
    tokens: Tokens
    passwords: PasswordPool
    feed: Feed
    accounts: Accounts
    administration: Administration

    async def register(self, email: str = "ann@example.com", password: str = PASSWORD) -> TokenPair:
        chosen = chosen_password(password, min_length=0)
        return await self.accounts.register(email_address(email), chosen, ORIGIN)

    async def login(self, email: str = "ann@example.com", password: str = PASSWORD) -> TokenPair:
        return await self.accounts.login(email_address(email), chosen_password(password, min_length=0), ORIGIN)

    def claims(self, pair: TokenPair) -> Claims:
        return self.tokens.verify(pair.access_token.encode())

    async def record(self, pair: TokenPair) -> UserRecord:
        record = await self.users.user(self.claims(pair).subject)
        assert record is not None
        return record

    def close(self) -> None:
        self.passwords.close()


def make_settings(**changes: Any) -> Settings:
    """Default settings with the fastest bcrypt; `changes` apply to `accounts`, or `roles`."""
    roles = changes.pop("roles", None)
    accounts = AccountsSettings(**{"password": PasswordSettings(bcrypt_rounds=4)} | changes)
    return dataclasses.replace(Settings(), accounts=accounts, roles=roles, tokens=TokensSettings())


def make_harness(
    database: Database, clock: Clock, settings: Settings | None = None, *, passwords: PasswordPool | None = None
) -> Harness:
    settings = settings or make_settings()
    users, sessions = Users(database, clock=clock), Sessions(database, clock=clock)
    keys = KeyRing([SigningKey.from_secret("0123456789abcdef" * 2, "HS256", "k1")])
    tokens = Tokens(keys, settings.tokens, clock=clock)
    if passwords is None:
        passwords = PasswordPool(rounds=settings.accounts.password.bcrypt_rounds, threads=PasswordThreads(2))
    feed = Feed(users)
    common = {"users": users, "sessions": sessions, "passwords": passwords, "feed": feed, "settings": settings}
    limits = {
        "lockout": Lockout(settings.accounts.lockout, clock=clock),
        "registrations": RegistrationLimit(settings.accounts.registration_limit, clock=clock),
    }
    accounts = Accounts(**common, **limits, tokens=tokens, clock=clock)  # type: ignore[arg-type]
    administration = Administration(**common, trail=AuditTrail(database, clock=clock))  # type: ignore[arg-type]
    return Harness(database, clock, settings, users, sessions, tokens, passwords, feed, accounts, administration)
