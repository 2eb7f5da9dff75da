"""Access of commands to the accounts. They use the database directly and need no running gateway."""

import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from functools import partial
from typing import TYPE_CHECKING

from gateway.accounts.administration import Administration
from gateway.accounts.change_publisher import copies_last_for
from gateway.accounts.passwords import PasswordPool
from gateway.cli.output import say, warn
from gateway.errors import CannotStart
from gateway.identity.directory import LocalFeed
from gateway.identity.signing_keys import key_ring, mac_keys
from gateway.identity.user import ChangeFeed
from gateway.settings.model import Settings
from gateway.settings.secret import Secret
from gateway.settings.store_files import sqlite_file
from gateway.settings.types import format_duration
from gateway.storage.audit import AuditTrail
from gateway.storage.database import COMMAND, Database
from gateway.storage.encryption import open_cipher
from gateway.storage.outbox import Outbox
from gateway.storage.schema import installation_id, prepare
from gateway.storage.sessions import Sessions
from gateway.storage.users import Users

_PATIENCE = 3.0  # seconds for a connection to Redis

# Only annotations. Imported if Redis is configured.
if TYPE_CHECKING:
    from gateway.storage.redis.change_feed import RedisFeed
    from gateway.storage.redis.client import RedisLink


@asynccontextmanager
async def open_database(settings: Settings, *, creates: bool = False, is_named: bool = True) -> AsyncIterator[Database]:
    """Open the configured database. Raises CannotStart if it cannot be used. `is_named`: print its name to stderr.

    Without `creates`, a missing SQLite file is an error. A command run in the wrong directory would otherwise create
    an empty database and answer from it.
    """
    address = settings.storage.database
    path = sqlite_file(address.reveal())
    if path is not None and not creates and not path.exists():
        raise CannotStart(
            f"the database file {path.absolute()} does not exist (run this where the gateway runs, or create the "
            "file with 'gateway users create' or 'gateway db upgrade')"
        )
    if is_named:
        say(f"gateway: database {address.shown if path is None else path.absolute()}", err=True)
    database = Database.open(address.reveal(), limits=COMMAND)
    try:
        yield database
    finally:
        await database.close()


@asynccontextmanager
async def opened(
    settings: Settings, *, creates: bool = False, is_named: bool = True
) -> AsyncIterator[tuple[Database, ChangeFeed]]:
    """Open the configured database, with its tables, and the feed that announces changes to replicas. Raises
    CannotStart if the database cannot be used.

    While Redis is down, changes are made, with a warning that replicas do not see them yet.
    """
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(open_database(settings, creates=creates, is_named=is_named))
        await prepare(database, file=settings.position_of("storage").file, creates=creates)
        feed: ChangeFeed = LocalFeed()
        if settings.storage.redis is not None:
            feed = await _feed(settings, settings.storage.redis, database, stack)
        yield database, feed


@asynccontextmanager
async def administration(
    settings: Settings, *, creates: bool = False, is_named: bool = True
) -> AsyncIterator[Administration]:
    """Open the account administration for the configured database. Raises CannotStart if that cannot be used."""
    async with opened(settings, creates=creates, is_named=is_named) as (database, feed):
        with administration_of(settings, database, feed) as made:
            yield made


@contextmanager
def administration_of(settings: Settings, database: Database, feed: ChangeFeed) -> Iterator[Administration]:
    """The account administration over an open database. Its changes mail notices like those of a running gateway."""
    passwords = PasswordPool(rounds=settings.accounts.password.bcrypt_rounds)
    outbox = Outbox(database, open_cipher(settings))
    try:
        yield Administration(
            users=Users(database, outbox=outbox, copies_last=copies_last_for(settings)),
            sessions=Sessions(database, copies_last=copies_last_for(settings)),
            trail=AuditTrail(database),
            passwords=passwords,
            feed=feed,
            settings=settings,
        )
    finally:
        passwords.close()


async def _feed(settings: Settings, address: Secret, database: Database, stack: AsyncExitStack) -> ChangeFeed:
    """The feed for announcements to replicas. It does not subscribe, because a command has no copies to invalidate.

    Raises ConfigurationError, and CannotStart if no key can authenticate messages.
    """
    # Imported here: most commands, and gateways without Redis, do not need the driver.
    from gateway.storage.redis.change_feed import RedisFeed
    from gateway.storage.redis.encoding import RedisValues
    from gateway.storage.redis.user_records import RedisRecords

    ttl = settings.cache.user_ttl
    values = RedisValues(mac_keys(settings, key_ring(settings)))
    link = await quiet_link(address, database, stack)
    feed = RedisFeed(link, RedisRecords(link, values, ttl=ttl))
    stack.callback(partial(_warn_of_unannounced, link, feed, ttl))
    stack.push_async_callback(feed.close)
    return feed


async def quiet_link(address: Secret, database: Database, stack: AsyncExitStack) -> "RedisLink":
    """Open a link to Redis, connected if Redis answers. Its log is muted: it is written for a running gateway, and
    commands report errors themselves."""
    from gateway.storage.redis.client import RedisLink  # Imported here, as above.

    log = logging.getLogger("gateway.storage.redis")
    stack.callback(log.setLevel, log.level)
    log.setLevel(logging.CRITICAL)
    link = RedisLink(address.reveal(), await installation_id(database))
    stack.push_async_callback(link.close)
    await link.open(patience=_PATIENCE)
    return link


def _warn_of_unannounced(link: "RedisLink", feed: "RedisFeed", ttl: float) -> None:
    if feed.undelivered:
        warn(
            "Redis did not take the message, so running gateways were not notified; "
            f"they can use cached records for up to {format_duration(ttl)} (cache.user_ttl) ({link.why})"
        )
