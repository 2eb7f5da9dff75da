"""Accounts as commands reach them: straight in the database, whether or not a gateway runs over it."""

import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

from gateway.accounts.administration import Administration
from gateway.accounts.passwords import PasswordPool
from gateway.cli.output import warn
from gateway.identity.directory import LocalFeed
from gateway.identity.key_loading import key_ring, mac_keys
from gateway.identity.records import ChangeFeed
from gateway.settings.model import Settings
from gateway.settings.secret import Secret
from gateway.settings.units import format_duration
from gateway.storage.audit import AuditTrail
from gateway.storage.database import COMMAND, Database
from gateway.storage.schema import prepare
from gateway.storage.sessions import Sessions
from gateway.storage.users import Users

if TYPE_CHECKING:
    from gateway.storage.redis import RedisLink
    from gateway.storage.redis_feed import RedisFeed


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[tuple[Database, ChangeFeed]]:
    """The configured database, and what tells the replicas. Raises CannotStart where the database cannot be used.

    Redis down: the change is made all the same, and who made it is told that the replicas were not.
    """
    async with AsyncExitStack() as stack:
        database = Database.open(settings.storage.database.reveal(), limits=COMMAND)
        stack.push_async_callback(database.close)
        await prepare(database)
        feed: ChangeFeed = LocalFeed()
        if settings.storage.redis is not None:
            feed = await _feed(settings, settings.storage.redis, stack)
        yield database, feed


@asynccontextmanager
async def administration(settings: Settings) -> AsyncIterator[Administration]:
    """The service over the configured database. Raises CannotStart where that cannot be used."""
    async with opened(settings) as (database, feed):
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


async def _feed(settings: Settings, address: Secret, stack: AsyncExitStack) -> ChangeFeed:
    """What tells the replicas. It only speaks: there is nothing here that would have to hear of changes.

    Raises ConfigurationError and CannotStart where no key authenticates the messages.
    """
    # Imported here: most commands, and every gateway of one process, need no driver.
    from gateway.storage.redis_feed import RedisFeed
    from gateway.storage.redis_records import RedisRecords
    from gateway.storage.redis_values import RedisValues

    ttl = settings.cache.user_ttl
    values = RedisValues(mac_keys(settings, key_ring(settings)))
    link = await quiet_link(address, stack)
    feed = RedisFeed(link, RedisRecords(link, values, ttl=ttl))
    stack.callback(partial(_warn_of_untold, feed, ttl))
    stack.push_async_callback(feed.close)
    return feed


async def quiet_link(address: Secret, stack: AsyncExitStack) -> "RedisLink":
    """The link to Redis, open if that answers. What it says while it is out is for the log of a gateway that goes on
    without it."""
    from gateway.storage.redis import RedisLink

    log = logging.getLogger("gateway.storage.redis")
    stack.callback(log.setLevel, log.level)
    log.setLevel(logging.CRITICAL)
    link = RedisLink(address.reveal())
    stack.push_async_callback(link.close)
    await link.open()
    return link


def _warn_of_untold(feed: "RedisFeed", ttl: float) -> None:
    if feed.undelivered:
        warn(
            "Redis did not answer, so running gateways could not be told; "
            f"they may use what they remember for up to {format_duration(ttl)} (cache.user_ttl)"
        )
