"""Accounts as commands reach them: straight in the database, whether or not a gateway runs over it."""

import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.accounts.administration import Administration
from gateway.accounts.passwords import PasswordPool
from gateway.cli.output import say, warn
from gateway.errors import CannotStart
from gateway.identity.directory import LocalFeed
from gateway.identity.key_loading import key_ring, mac_keys
from gateway.identity.records import ChangeFeed
from gateway.settings.checks import is_in_memory
from gateway.settings.model import Settings
from gateway.settings.secret import Secret
from gateway.settings.units import format_duration
from gateway.storage.audit import AuditTrail
from gateway.storage.database import COMMAND, Database
from gateway.storage.installation import installation_id
from gateway.storage.schema import prepare
from gateway.storage.sessions import Sessions
from gateway.storage.users import Users

_PATIENCE = 3.0  # seconds for a connection to Redis

if TYPE_CHECKING:
    from gateway.storage.redis import RedisLink
    from gateway.storage.redis_feed import RedisFeed


@asynccontextmanager
async def open_database(settings: Settings, *, creates: bool = False, is_named: bool = True) -> AsyncIterator[Database]:
    """The configured database. Raises CannotStart where it cannot be used. `is_named`: standard error says which it is.

    Only with `creates` an SQLite file that does not exist is made: a command in the wrong folder would otherwise answer
    from an empty database, and leave it there.
    """
    address = settings.storage.database
    path = sqlite_file(address.reveal())
    if path is not None and not creates and not path.exists():
        raise CannotStart(
            f"the database file {path.absolute()} does not exist (run this where the gateway runs, or make the file "
            "with 'gateway users create' or 'gateway db upgrade')"
        )
    if is_named:
        say(f"gateway: database {address.shown if path is None else path.absolute()}", err=True)
    database = Database.open(address.reveal(), limits=COMMAND)
    try:
        yield database
    finally:
        await database.close()


def sqlite_file(address: str) -> Path | None:
    """The file of an SQLite address; None for PostgreSQL and for a database in memory."""
    if not address.startswith("sqlite") or is_in_memory(address):
        return None
    return Path(address.partition("://")[2].partition("?")[0].removeprefix("/"))


@asynccontextmanager
async def opened(
    settings: Settings, *, creates: bool = False, is_named: bool = True
) -> AsyncIterator[tuple[Database, ChangeFeed]]:
    """The configured database with its tables, and the feed that reaches the replicas. Raises CannotStart where the
    database cannot be used.

    If Redis is down, the change is made all the same, with a warning that the replicas do not know of it.
    """
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(open_database(settings, creates=creates, is_named=is_named))
        await prepare(database)
        feed: ChangeFeed = LocalFeed()
        if settings.storage.redis is not None:
            feed = await _feed(settings, settings.storage.redis, database, stack)
        yield database, feed


@asynccontextmanager
async def administration(
    settings: Settings, *, creates: bool = False, is_named: bool = True
) -> AsyncIterator[Administration]:
    """The service over the configured database. Raises CannotStart where that cannot be used."""
    async with opened(settings, creates=creates, is_named=is_named) as (database, feed):
        passwords = PasswordPool(rounds=settings.accounts.password.bcrypt_rounds)
        try:
            yield Administration(
                users=Users(database),
                sessions=Sessions(database),
                trail=AuditTrail(database),
                passwords=passwords,
                feed=feed,
                settings=settings,
            )
        finally:
            passwords.close()


async def _feed(settings: Settings, address: Secret, database: Database, stack: AsyncExitStack) -> ChangeFeed:
    """What tells the replicas. It only speaks: there is nothing here that would have to hear of changes.

    Raises ConfigurationError and CannotStart where no key authenticates the messages.
    """
    # Imported here: most commands, and every gateway of one process, need no driver.
    from gateway.storage.redis_feed import RedisFeed
    from gateway.storage.redis_records import RedisRecords
    from gateway.storage.redis_values import RedisValues

    ttl = settings.cache.user_ttl
    values = RedisValues(mac_keys(settings, key_ring(settings)))
    link = await quiet_link(address, database, stack)
    feed = RedisFeed(link, RedisRecords(link, values, ttl=ttl))
    stack.callback(partial(_warn_of_untold, link, feed, ttl))
    stack.push_async_callback(feed.close)
    return feed


async def quiet_link(address: Secret, database: Database, stack: AsyncExitStack) -> "RedisLink":
    """The link to Redis, open if that answers. What it says while it is out is for the log of a gateway that goes on
    without it."""
    from gateway.storage.redis import RedisLink

    log = logging.getLogger("gateway.storage.redis")
    stack.callback(log.setLevel, log.level)
    log.setLevel(logging.CRITICAL)
    link = RedisLink(address.reveal(), await installation_id(database))
    stack.push_async_callback(link.close)
    await link.open(patience=_PATIENCE)
    return link


def _warn_of_untold(link: "RedisLink", feed: "RedisFeed", ttl: float) -> None:
    if feed.undelivered:
        warn(
            "Redis did not answer, so running gateways could not be told; "
            f"they may use what they remember for up to {format_duration(ttl)} (cache.user_ttl) ({link.why})"
        )
