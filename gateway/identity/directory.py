"""Who a user id is: the copy in this process, then the one that replicas share, then the database.

What a copy may do, and for how long:

- A record is used for `cache.user_ttl` after it was asked of the database, however many caches it went through.
- A change takes a user's copies away (`forget`), also from whoever is just reading one: a reader that began before the
  change answers those who asked before it, and nothing of what it found is kept.
- While changes made elsewhere do not reach this process, nothing is kept and every request asks the database. When
  they do again, copies from before are void wherever they lie (`flush`): a message that was lost in between could have
  been the one that shut a user out.
- Stores that are out make this slower or make it fail with StorageUnavailable; they let nobody in.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator
from enum import Enum
from typing import Final, NamedTuple

from gateway.counting import Sample, Tally
from gateway.errors import Refusal, StorageUnavailable, without_traceback
from gateway.identity.generations import Generations
from gateway.identity.principals import Principal, PrincipalFactory
from gateway.identity.records import ChangeFeed, Claims, SharedCache, UserRecord, UserStore
from gateway.settings.model import CacheSettings

NEGATIVE_TTL: Final = 1.0  # seconds that "there is no such user" is believed
MAX_CHANGES: Final = 100_000  # users whose last change is remembered, for as long as a copy from before may live


class Absent(Enum):
    """The type of ABSENT: it is known that there is no such user."""

    ABSENT = "absent"


ABSENT: Final = Absent.ABSENT

_Entry = tuple[float, Principal | Absent]  # until when, and who
_Flight = asyncio.Future[Principal | StorageUnavailable | None]


class _Found(NamedTuple):
    """A record or None for nobody, when the database was asked for it, and whether that was now and by us."""

    record: UserRecord | None
    asked_at: float
    from_store: bool


class Directory:
    """Finds principals. `shared` and `feed` are None where this process is the only one. `clock` gives seconds.

    At most `cache.max_local_entries` users are kept, absent ones included; those not asked for longest go first.
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
        self._entries: Generations[str, _Entry] = Generations(cache_settings.max_local_entries, lifetime=self._ttl)
        self._changes: Generations[str, float] = Generations(MAX_CHANGES, lifetime=self._ttl)
        self._void_before = float("-inf")
        self._hits = 0  # in the copies here
        self._lookups = Tally("gateway_cache_lookups_total")
        self._flights: dict[str, _Flight] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def cached(self, user_id: str) -> Principal | Absent | None:
        """Who this is as far as is known here and now: a principal, ABSENT, or None: `principal` must be awaited."""
        entry = self._entries.young.get(user_id)
        if entry is None:
            entry = self._entries.aged(user_id)
            if entry is None:
                return None
        if self._clock() >= entry[0]:
            return None
        self._hits += 1
        return entry[1]

    async def principal(self, user_id: str) -> Principal | None:
        """Who this is; None when there is no such user. Those who ask at the same time share one query.

        Raises StorageUnavailable when no store that must answer does.
        """
        known = self.cached(user_id)
        if known is not None:
            return None if known is ABSENT else known
        self._lookups.add("local", "miss")
        # Shielded: an asker who leaves must not take the answer from the others.
        outcome = await asyncio.shield(self._flights.get(user_id) or self._take_off(user_id))
        if isinstance(outcome, StorageUnavailable):
            raise StorageUnavailable(outcome.store, outcome.reason)
        return outcome

    def acting(self, principal: Principal | Absent | None, claims: Claims) -> Principal | Absent | None:
        """Who was found, as far as these claims let them act; for claims that bring roles of their own."""
        return self._factory.acting(principal, claims) if isinstance(principal, Principal) else principal

    def samples(self) -> Iterator[Sample]:
        """Where records were found, and where they were not."""
        yield Sample("gateway_cache_lookups_total", ("local", "hit"), self._hits)
        yield from self._lookups.samples()

    @staticmethod
    def check(principal: Principal | Absent | None, claims: Claims) -> Refusal | None:
        """Why this principal may not act on these claims: gone or disabled, or the token's session has ended."""
        if principal is None or principal is ABSENT or not principal.is_active:
            return Refusal("user_inactive", "no such user, or disabled", presented=True)
        if claims.session in principal.ended_sessions:
            return Refusal("token_revoked", "the token's session has ended", presented=True)
        return None

    def forget(self, user_id: str, version: int | None) -> None:
        """Let go of copies older than `version` (None: of all), here and in the shared cache, and of whoever is just
        fetching one."""
        self._flights.pop(user_id, None)
        # A shared cache that does not take the change (full, read-only, cut off) must not give back what was before.
        least = float("inf") if version is None else version
        self._changes.put(user_id, max(least, self._oldest_good(user_id)), self._clock())
        entry = self._entries.young.get(user_id) or self._entries.aged(user_id)
        if entry is not None and (version is None or entry[1] is ABSENT or entry[1].version < version):
            self._entries.drop(user_id)

    def renew(self, factory: PrincipalFactory) -> None:
        """Make principals by other rules from now on: roles may imply others than before."""
        self._factory = factory
        self._flights.clear()
        self._entries.clear()

    def suspend(self) -> None:
        """Let go of the copies here. Those in the shared cache stay good."""
        self._flights.clear()
        self._entries.clear()

    def flush(self) -> None:
        """Let go of everything, and take nothing from the shared cache that was read before now."""
        self._void_before = self._clock()
        self.suspend()

    async def close(self) -> None:
        """Give up on queries that are still running."""
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _take_off(self, user_id: str) -> _Flight:
        loop = asyncio.get_running_loop()
        flight = self._flights[user_id] = loop.create_future()
        task = loop.create_task(self._fly(user_id, flight))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return flight

    async def _fly(self, user_id: str, flight: _Flight) -> None:
        live = self._live()
        try:
            found = await self._find(user_id)
            principal = None if found.record is None else self._factory.make(found.record)
        except StorageUnavailable as error:
            self._land(user_id, flight)
            flight.set_result(without_traceback(error))
            return
        except asyncio.CancelledError:
            self._land(user_id, flight)
            flight.set_result(StorageUnavailable("database", "the gateway is shutting down"))
            raise
        except Exception as error:
            self._land(user_id, flight)
            flight.set_exception(error)
            flight.exception()  # it counts as seen even if nobody waits for it any more
            del flight  # it keeps the error, whose traceback keeps this frame
            return
        # Of what was asked before changes arrived here it is not known whether it holds.
        wanted = self._land(user_id, flight) and live
        if wanted:
            self._keep(user_id, principal, found.asked_at)
        flight.set_result(principal)
        if wanted and found.from_store and found.record is not None and self._shared is not None:
            await self._shared.put(found.record, age=self._clock() - found.asked_at)

    def _land(self, user_id: str, flight: _Flight) -> bool:
        """Whether what the flight brings may be kept: nobody forgot the user meanwhile."""
        wanted = self._flights.get(user_id) is flight
        if wanted:
            del self._flights[user_id]
        return wanted

    async def _find(self, user_id: str) -> _Found:
        asked_at = self._clock()
        if self._shared is not None and self._live():
            shared = await self._shared.get(user_id)
            if shared is not None:
                record, remaining = shared
                read_at = asked_at - (self._ttl - remaining)
                if read_at >= self._void_before and record.version >= self._oldest_good(user_id):
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
        """The version below which a shared record is older than a change that is known here."""
        return self._changes.young.get(user_id) or self._changes.aged(user_id) or 0

    def _live(self) -> bool:
        """Whether changes made elsewhere reach this process, so that a copy may be trusted."""
        return self._feed is None or self._feed.connected


class LocalFeed:
    """The change feed where this process is the only one: what changes here is all that changes."""

    connected: Final = True

    def __init__(self, listener: Directory | None = None) -> None:
        self._listener = listener

    async def announce(self, user_id: str, record: UserRecord | None) -> None:
        """Let go of the copies here."""
        if self._listener is not None:
            self._listener.forget(user_id, None if record is None else record.version)

    def samples(self) -> Iterable[Sample]:
        """Changes take no time here."""
        return ()
