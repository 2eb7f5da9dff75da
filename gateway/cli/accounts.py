"""Accounts as commands reach them: straight in the database, whether or not a gateway runs over it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from gateway.accounts.administration import Administration
from gateway.accounts.passwords import PasswordPool
from gateway.identity.directory import LocalFeed
from gateway.settings.model import Settings
from gateway.storage.database import COMMAND, Database
from gateway.storage.schema import prepare
from gateway.storage.sessions import Sessions
from gateway.storage.users import Users


@asynccontextmanager
async def administration(settings: Settings) -> AsyncIterator[Administration]:
    """The service over the configured database. Raises CannotStart where that cannot be used."""
    database = Database.open(settings.storage.database.reveal(), limits=COMMAND)
    passwords = PasswordPool(rounds=settings.accounts.password.bcrypt_rounds)
    try:
        await prepare(database)
        yield Administration(
            users=Users(database),
            sessions=Sessions(database),
            passwords=passwords,
            feed=LocalFeed(),
            settings=settings,
        )
    finally:
        passwords.close()
        await database.close()
