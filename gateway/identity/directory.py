"""Find principals: in the local cache, then the shared cache, then the database.

Rules for cached copies:

- A record is used for `cache.user_ttl` after it was read from the database, through all caches together.
- A change removes the user's copies (`forget`). A lookup already in progress still answers the requests that wait for
  it, but its result is not cached.
- While the change feed is disconnected, nothing is cached and every request reads the database. After it reconnects,
  all older copies are void in every cache (`flush`): a lost message could have revoked access.
- A store that is down causes delays or StorageUnavailable, never access.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator
from enum import Enum
from typing import Final, NamedTuple

from gateway.cache import TwoGenerationCache
from gateway.errors import Refusal, StorageUnavailable, without_traceback
from gateway.identity.principal import Principal, PrincipalFactory
from gateway.identity.user import ChangeFeed, Claims, SharedCache, UserRecord, UserStore
from gateway.samples import LabeledCounter, Sample
from gateway.settings.model import CacheSettings

NEGATIVE_TTL: Final = 1.0  # Seconds for which the absence of a user is cached.
MAX_CHANGES: Final = 100_000  # Users whose last change is remembered, for as long as an older copy can exist.


class Absent(Enum):
    """The type of ABSENT, the cached fact that a user does not exist."""

    ABSENT = "absent"


ABSENT: Final = Absent.ABSENT

_Entry = tuple[float, Principal | Absent]  # expiry, and the principal
_Flight = asyncio.Future[Principal | StorageUnavailable | None]


class _Found(NamedTuple):
    """A lookup result: the record or None, the time it was read from the database, and whether this lookup read it."""

    record: UserRecord | None
    asked_at: float
    from_store: bool


class Directory:
    """Finds principals. `shared` and `feed` are None if this is the only process. `clock` returns seconds.

    Caches at most `cache.max_local_entries` users, absent ones included, and evicts the least recently used.
    """

    def __init__(
        self,
        store: UserStore,
        *,
        factory: PrincipalFactory,
        cache_settings: CacheSettings,
        shared: SharedCache | None = None,
        feed: ChangeFeed | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._shared = shared
        self._feed = feed
        self._factory = factory
        self._ttl = cache_settings.user_ttl
        self._clock = clock
        self._entries: TwoGenerationCache[str, _Entry] = TwoGenerationCache(
            cache_settings.max_local_entries, lifetime=self._ttl
        )
        self._changes: TwoGenerationCache[str, float] = TwoGenerationCache(MAX_CHANGES, lifetime=self._ttl)
        self._min_read_at = float("-inf")
        self._hits = 0  # in the local cache
        self._lookups = LabeledCounter("gateway_cache_lookups_total")
        self._flights: dict[str, _Flight] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def cached(self, user_id: str) -> Principal | Absent | None:
        """The cached principal, ABSENT, or None if `principal` must be awaited."""
        entry = self._entries.young.get(user_id)
        if entry is None:
            entry = self._entries.get(user_id)
            if entry is None:
                return None
        if self._clock() >= entry[0]:
            return None
        self._hits += 1
        return entry[1]

    async def principal(self, user_id: str) -> Principal | None:
        """The principal, None if the user does not exist. Concurrent lookups share one query.

        Raises StorageUnavailable if a required store is down.
        """
        known = self.cached(user_id)
        if known is not None:
            return None if known is ABSENT else known
        self._lookups.add("local", "miss")
        # Shielded: a cancelled waiter must not cancel the lookup of the others.
        outcome = await asyncio.shield(self._flights.get(user_id) or self._start_lookup(user_id))
        if isinstance(outcome, StorageUnavailable):
            raise StorageUnavailable(outcome.store, outcome.reason)
        return outcome

    def scoped_to(self, principal: Principal | Absent | None, claims: Claims) -> Principal | Absent | None:
        """The principal restricted to the token's roles, for claims that carry roles."""
        return self._factory.scoped_to(principal, claims) if isinstance(principal, Principal) else principal

    def samples(self) -> Iterator[Sample]:
        """Hits and misses per cache."""
        yield Sample("gateway_cache_lookups_total", ("local", "hit"), self._hits)
        yield from self._lookups.samples()

    @staticmethod
    def check(principal: Principal | Absent | None, claims: Claims) -> Refusal | None:
        """The reason why a principal cannot use these claims: deleted, disabled, or the session has ended."""
        if principal is None or principal is ABSENT or not principal.is_active:
            return Refusal("user_inactive", "the user does not exist or is disabled", presented=_has_scheme(claims))
        if claims.session in principal.ended_sessions:
            return Refusal("token_revoked", "the session has ended", presented=_has_scheme(claims))
        return None

    def forget(self, user_id: str, version: int | None) -> None:
        """Drop copies older than `version` (None: all of them), locally and in the shared cache, and detach a lookup in
        progress."""
        self._flights.pop(user_id, None)
        # The shared cache can fail to store the change (full, read-only, unreachable) and must not return the old
        # record.
        least = float("inf") if version is None else version
        self._changes.put(user_id, max(least, self._oldest_good(user_id)), self._clock())
        entry = self._entries.get(user_id)
        if entry is not None and (version is None or entry[1] is ABSENT or entry[1].version < version):
            self._entries.drop(user_id)

    def renew(self, factory: PrincipalFactory) -> None:
        """Use a new factory, because the role hierarchy can differ."""
        self._factory = factory
        self._flights.clear()
        self._entries.clear()

    def suspend(self) -> None:
        """Drop the local copies. Those in the shared cache stay valid."""
        self._flights.clear()
        self._entries.clear()

    def flush(self) -> None:
        """Drop all copies, and ignore shared copies read before now."""
        self._min_read_at = self._clock()
        self.suspend()

    async def close(self) -> None:
        """Cancel lookups in progress."""
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _start_lookup(self, user_id: str) -> _Flight:
        loop = asyncio.get_running_loop()
        flight = self._flights[user_id] = loop.create_future()
        task = loop.create_task(self._run_lookup(user_id, flight))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return flight

    async def _run_lookup(self, user_id: str, flight: _Flight | None) -> None:
        assert flight is not None
        live = self._live()
        try:
            found = await self._find(user_id)
            principal = None if found.record is None else self._factory.make(found.record)
        except StorageUnavailable as unavailable:
            self._finish_lookup(user_id, flight)
            flight.set_result(without_traceback(unavailable))
            return
        except asyncio.CancelledError:
            self._finish_lookup(user_id, flight)
            flight.set_result(StorageUnavailable("database", "the gateway is shutting down"))
            raise
        except Exception as error:
            self._finish_lookup(user_id, flight)
            flight.set_exception(error)
            flight.exception()  # Retrieve it, so that asyncio logs no error if every waiter has been cancelled.
            flight = None  # The future holds the error, and its traceback holds this frame.
            return
        # Results read before the feed was connected can be outdated.
        is_current = self._finish_lookup(user_id, flight) and live
        if is_current:
            self._keep(user_id, principal, found.asked_at)
        flight.set_result(principal)
        if is_current and found.from_store and found.record is not None and self._shared is not None:
            await self._shared.put(found.record, age=self._clock() - found.asked_at)

    def _finish_lookup(self, user_id: str, flight: _Flight) -> bool:
        """Whether the result can be cached: the user was not forgotten during the lookup."""
        is_current = self._flights.get(user_id) is flight
        if is_current:
            del self._flights[user_id]
        return is_current

    async def _find(self, user_id: str) -> _Found:
        asked_at = self._clock()
        if self._shared is not None and self._live():
            shared = await self._shared.get(user_id)
            if shared is not None:
                record, remaining = shared
                read_at = asked_at - (self._ttl - remaining)
                if read_at >= self._min_read_at and record.version >= self._oldest_good(user_id):
                    self._lookups.add("redis", "hit")
                    return _Found(record, read_at, from_store=False)
            self._lookups.add("redis", "miss")
            asked_at = self._clock()
        record_now = await self._store.user(user_id)
        self._lookups.add("database", "miss" if record_now is None else "hit")
        return _Found(record_now, asked_at, from_store=True)

    def _keep(self, user_id: str, principal: Principal | None, asked_at: float) -> None:
        if principal is None:
            entry: _Entry = (asked_at + min(self._ttl, NEGATIVE_TTL), ABSENT)
        else:
            entry = (asked_at + self._ttl, principal)
        self._entries.put(user_id, entry, self._clock())

    def _oldest_good(self, user_id: str) -> float:
        """The lowest version of a shared record that is not older than a change seen here."""
        return self._changes.get(user_id) or 0

    def _live(self) -> bool:
        """Whether changes made elsewhere reach this process, so that copies can be trusted."""
        return self._feed is None or self._feed.connected


def _has_scheme(claims: Claims) -> bool:
    """Whether a challenge can name an error of the credential. No scheme is registered for cookies."""
    return claims.kind != "session"


class LocalFeed:
    """The change feed of a single process: all changes are local."""

    connected: Final = True

    def __init__(self, listener: Directory | None = None) -> None:
        self._listener = listener

    async def announce(self, user_id: str, record: UserRecord | None) -> None:
        """Drop the local copies."""
        if self._listener is not None:
            self._listener.forget(user_id, None if record is None else record.version)

    def samples(self) -> Iterable[Sample]:
        return ()
