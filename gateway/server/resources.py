"""The resources of a running gateway: clock, keys, stores, credentials and metrics.

The stores are the database, optionally Redis, and the directory over both.
"""

import asyncio
import logging
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack
from typing import Final, NamedTuple

from gateway.accounts.change_publisher import copies_last_for
from gateway.accounts.failed_attempts import SharedFailures
from gateway.errors import ConfigurationError
from gateway.gate.rate_limits import SharedBuckets
from gateway.identity.access_token import Tokens
from gateway.identity.api_key_verifier import ApiKeyVerifier
from gateway.identity.credentials import Authenticator, Issuer
from gateway.identity.directory import Directory, LocalFeed
from gateway.identity.principal import PrincipalFactory, forwards_only_verified
from gateway.identity.session_verifier import SessionLimits, SessionVerifier
from gateway.identity.signing_keys import MacKeys, key_ring, mac_keys
from gateway.identity.user import ChangeFeed, UserStore
from gateway.observability.events import EventHandler, FailureCounter
from gateway.observability.observer import Observer
from gateway.observability.shadow_log import ShadowLog
from gateway.policy.loader import Configuration
from gateway.policy.policy import Policy
from gateway.policy.roles import RoleHierarchy
from gateway.samples import Sample
from gateway.settings.model import Settings
from gateway.settings.store_files import unusable_files
from gateway.storage.api_keys import ApiKeys
from gateway.storage.audit import AuditTrail
from gateway.storage.browser_sessions import StoredBrowserSessions
from gateway.storage.database import Database
from gateway.storage.encryption import open_cipher
from gateway.storage.outbox import Outbox
from gateway.storage.process_lock import lock_database
from gateway.storage.schema import installation_id, prepare
from gateway.storage.sessions import Sessions
from gateway.storage.subjects import AllUsers, Subjects
from gateway.storage.users import Users
from gateway.ticker import Ticker

_PROBE_EVERY: Final = 1.0  # In seconds.


class Stores(NamedTuple):
    database: Database
    users: Users
    sessions: Sessions
    browser_sessions: StoredBrowserSessions
    api_keys: ApiKeys
    trail: AuditTrail
    outbox: Outbox
    directory: Directory
    feed: ChangeFeed
    buckets: SharedBuckets | None
    failures: SharedFailures | None

    def degraded(self) -> tuple[str, ...]:
        """The names of the stores that are down. Without Redis, the local feed is always connected."""
        out = {"database": not self.database.available, "redis": not self.feed.connected}
        return tuple(name for name, is_out in out.items() if is_out)

    def samples(self) -> Iterator[Sample]:
        """Samples of stores and caches."""
        degraded = self.degraded()
        for name in ("database",) if self.buckets is None else ("database", "redis"):
            yield Sample("gateway_store_up", (name,), int(name not in degraded))
        yield from self.directory.samples()
        yield from self.feed.samples()


async def open_stores(settings: Settings, keys: MacKeys, stack: AsyncExitStack) -> Stores:
    """Open all stores; `stack` closes them. `keys` authenticate shared records.

    Raises CannotStart if the database is unusable. If Redis is down, the gateway starts without it and reads the
    database; the outage grants no access.
    """
    database = Database.open(settings.storage.database.reveal())
    stack.push_async_callback(database.close)
    has_redis = settings.storage.redis is not None
    await lock_database(settings.storage.database.reveal(), has_redis=has_redis, stack=stack)
    await prepare(database, file=settings.position_of("storage").file)
    probe = asyncio.get_running_loop().create_task(_probe(database))
    stack.callback(probe.cancel)
    copies_last = copies_last_for(settings)
    outbox = Outbox(database, open_cipher(settings))
    users = Users(database, outbox=outbox, copies_last=copies_last)
    factory = principal_factory(settings)
    all_users = AllUsers(users, Subjects(database))
    directory, feed, buckets, failures = await _directory(settings, keys, database, all_users, factory, stack)
    stack.push_async_callback(directory.close)
    idle = None if settings.sessions is None else settings.sessions.idle
    place_notices = _place_notices(settings, outbox)
    return Stores(
        database,
        users,
        Sessions(database, outbox=place_notices, idle=idle, copies_last=copies_last),
        StoredBrowserSessions(database, outbox=place_notices, copies_last=copies_last),
        ApiKeys(database, outbox=outbox),
        AuditTrail(database),
        outbox,
        directory,
        feed,
        buckets,
        failures,
    )


def _place_notices(settings: Settings, outbox: Outbox) -> Outbox | None:
    """The outbox for notices of sign-ins from new places, None without mail or with `mail.notices: changes`."""
    return outbox if settings.mail is not None and settings.mail.notices == "all" else None


def principal_factory(settings: Settings) -> PrincipalFactory:
    """The factory for a configuration."""
    expand = RoleHierarchy(settings.roles).expand
    return PrincipalFactory(settings.identity, expand, only_verified=forwards_only_verified(settings.accounts.email))


async def _probe(database: Database) -> None:
    """Probe the database regularly, so that readiness reflects an outage and its end even without requests."""
    while True:
        await asyncio.sleep(_PROBE_EVERY)
        await database.ping()


async def _directory(
    settings: Settings,
    keys: MacKeys,
    database: Database,
    users: UserStore,
    factory: PrincipalFactory,
    stack: AsyncExitStack,
) -> tuple[Directory, ChangeFeed, SharedBuckets | None, SharedFailures | None]:
    """The state that replicas share: cached records, the change feed, rate limit counts and failure counts. Local
    without Redis."""
    if settings.storage.redis is None:
        alone = Directory(users, factory=factory, cache_settings=settings.cache)
        return alone, LocalFeed(alone), None, None
    # Imported here: a single process needs neither the driver nor its 4 MiB.
    from gateway.storage.redis.buckets import RedisBuckets
    from gateway.storage.redis.change_feed import RedisFeed
    from gateway.storage.redis.client import RedisLink
    from gateway.storage.redis.encoding import RedisValues
    from gateway.storage.redis.failed_attempts import RedisFailures
    from gateway.storage.redis.user_cache import RedisCache
    from gateway.storage.redis.user_records import RedisRecords

    link = RedisLink(settings.storage.redis.reveal(), await installation_id(database))
    stack.push_async_callback(link.close)
    await link.open()
    records = RedisRecords(link, RedisValues(keys), ttl=settings.cache.user_ttl)
    feed = RedisFeed(link, records)
    directory = Directory(users, factory=factory, cache_settings=settings.cache, shared=RedisCache(records), feed=feed)
    stack.push_async_callback(feed.close)
    await feed.open(directory)
    return directory, feed, RedisBuckets(link), RedisFailures(link)


class Resources(NamedTuple):
    """The resources of a process. A reload changes their contents but keeps the objects. `configuration` is the initial
    one; `stack` closes all resources in reverse order."""

    configuration: Configuration
    stack: AsyncExitStack
    loop: asyncio.AbstractEventLoop
    ticker: Ticker
    tokens: Tokens
    stores: Stores
    credentials: Authenticator
    session_verifier: SessionVerifier | None
    observer: Observer
    shadow_log: ShadowLog

    @property
    def settings(self) -> Settings:
        """The initial settings."""
        return self.configuration.settings

    @property
    def policy(self) -> Policy:
        """The initial policy."""
        return self.configuration.policy


async def open_resources(configuration: Configuration, stack: AsyncExitStack) -> Resources:
    """Open the resources; `stack` closes them. Raises CannotStart and ConfigurationError."""
    settings, policy = configuration.settings, configuration.policy
    remembered = settings.cache.max_local_entries
    loop = asyncio.get_running_loop()
    _report_failures(loop, stack)
    if problems := unusable_files(settings):
        raise ConfigurationError(problems)
    tokens = Tokens(key_ring(settings), settings.tokens, remembered=remembered)
    ticker = Ticker(loop)
    stores = await open_stores(settings, mac_keys(settings, tokens.keys), stack)
    presented_keys = ApiKeyVerifier(stores.api_keys, tokens, ttl=settings.cache.user_ttl)
    stack.push_async_callback(presented_keys.close)
    session_verifier = _session_verifier(settings, stores, tokens, stack)
    issuers: Mapping[str, Issuer] = {}
    if settings.tokens.external:
        from gateway.server.issuers import open_issuers  # PyJWT reads their keys: 2 MiB and a tenth of a start.

        issuers = open_issuers(settings.tokens, ticker, clock=loop.time, stack=stack, remembered=remembered)
    observer = Observer(settings.observability, [route.name for route in (*policy.own, *policy.routes)])
    stack.callback(observer.close)
    return Resources(
        configuration,
        stack,
        loop,
        ticker,
        tokens,
        stores,
        Authenticator(tokens, issuers=issuers, api_keys=presented_keys, max_size=settings.tokens.max_size),
        session_verifier,
        observer,
        ShadowLog(),
    )


def _session_verifier(
    settings: Settings, stores: Stores, tokens: Tokens, stack: AsyncExitStack
) -> SessionVerifier | None:
    if settings.sessions is None:
        return None
    cache = settings.cache
    limits = SessionLimits(settings.sessions.idle, cache.user_ttl, cache.max_local_entries)
    verifier = SessionVerifier(stores.browser_sessions, tokens, limits)
    stack.push_async_callback(verifier.close)
    return verifier


def _report_failures(loop: asyncio.AbstractEventLoop, stack: AsyncExitStack) -> None:
    """Log unexpected errors with their traceback on standard error, once a minute per source line."""
    failures = FailureCounter()
    handler = EventHandler(failures)
    for name in ("gateway", "opentelemetry"):
        logger = logging.getLogger(name)
        logger.addHandler(handler)
        stack.callback(logger.removeHandler, handler)
    loop.set_exception_handler(failures.on_loop_error)
    stack.callback(loop.set_exception_handler, None)
