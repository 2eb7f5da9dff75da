"""The keys of one issuer: fetched in the background, renewed before they grow stale, kept while the issuer is out.

- What is known is used at once and always: no request waits for a renewal, and no outage of the issuer takes keys away.
- A key that is not known is asked for at most every COOLDOWN seconds, whoever asks: callers choose the ids.
- One fetch at a time; whoever needs it waits for the same one.
"""

import asyncio
import logging
import secrets
from collections.abc import Callable, Collection
from typing import Final

from gateway.identity.key_sets import KeySet, UnusableKeySet, read_key_set
from gateway.identity.keys import VerifyingKey
from gateway.issuers.fetching import FetchFailed
from gateway.issuers.locating import Fetch

COOLDOWN: Final = 30.0  # seconds between fetches for the sake of unknown keys
LEAST_AGE, USUAL_AGE, MOST_AGE = 60.0, 600.0, 3600.0  # seconds that a key set is used for, whatever its server says
_CHANCE: Final = secrets.SystemRandom()
_EARLY: Final = (0.7, 0.8)  # of its age, in which it is renewed; not all replicas at once
_RETRIES: Final = (1.0, 2.0, 5.0, 10.0, 20.0, 30.0)  # seconds after each failure in a row; the last goes on

log: Final = logging.getLogger("gateway.issuers")


class PublishedKeySet:
    """The keys that are found by `fetch`. `tick` must be called now and then; `clock` gives seconds, as `tick` does."""

    def __init__(self, name: str, fetch: Fetch, *, algorithms: Collection[str], clock: Callable[[], float]) -> None:
        self._name = name
        self._fetch = fetch
        self._algorithms = tuple(algorithms)
        self._clock = clock
        self._keys = KeySet()
        self._due = float("-inf")
        self._next_asking = float("-inf")
        self._failures = 0
        self._flight: asyncio.Task[None] | None = None
        self._listeners: list[Callable[[], None]] = []

    def get(self, kid: str, algorithm: str) -> tuple[VerifyingKey, ...]:
        """The keys of this id for this algorithm."""
        return self._keys.get(kid, algorithm)

    @property
    def is_empty(self) -> bool:
        """Whether not one usable key is known."""
        return not len(self._keys)

    def holds(self, key: object) -> bool:
        """Whether this very key is still published, as far as is known."""
        return self._keys.holds(key)

    @property
    def may_be_asked(self) -> bool:
        """Whether the issuer may be asked for a key that is not known, or is being asked just now."""
        return self._flight is not None or self._clock() >= self._next_asking

    async def ask(self) -> None:
        """Ask the issuer, together with whoever else does. That it does not answer is no error: nothing is new."""
        if self._flight is None:
            if self._clock() < self._next_asking:
                return
            self._next_asking = self._clock() + COOLDOWN
            self._take_off()
        assert self._flight is not None
        # Not awaited itself: a caller who leaves must not take the answer from the others.
        await asyncio.wait((self._flight,))

    def on_loss(self, listener: Callable[[], None]) -> None:
        """Call `listener` whenever a key is published no more."""
        self._listeners.append(listener)

    def tick(self, now: float) -> None:
        """Renew the keys if it is time to."""
        if now >= self._due and self._flight is None:
            self._take_off()

    def close(self) -> None:
        """Fetch no more."""
        self._due = float("inf")
        if self._flight is not None:
            self._flight.cancel()

    def _take_off(self) -> None:
        self._flight = asyncio.get_running_loop().create_task(self._renew())

    async def _renew(self) -> None:
        try:
            document = await self._fetch()
            keys = read_key_set(document.text, self._algorithms)
        except (FetchFailed, UnusableKeySet) as error:
            self._failed(str(error))
        except Exception:
            log.exception("issuer %s: the keys could not be fetched", self._name)
            self._failed("")
        else:
            self._learn(keys, document.max_age)
        finally:
            self._flight = None

    def _learn(self, keys: KeySet, max_age: float | None) -> None:
        if not len(keys):
            log.warning("issuer %s publishes no key that could be used: its tokens are refused", self._name)
        elif self._failures:
            log.warning("issuer %s: the keys can be fetched again", self._name)
        lost = keys.lacks_any_of(self._keys)
        self._keys, self._failures = keys.after(self._keys), 0
        age = min(max(USUAL_AGE if max_age is None else max_age, LEAST_AGE), MOST_AGE)
        self._due = self._clock() + age * _CHANCE.uniform(*_EARLY)
        if lost:
            for listener in self._listeners:
                listener()

    def _failed(self, reason: str) -> None:
        """Try again later. Each failure is logged, because the reason can change; the handler limits how often."""
        self._due = self._clock() + _RETRIES[min(self._failures, len(_RETRIES) - 1)]
        if reason:
            kept = f"{len(self._keys)} keys from before are used" if len(self._keys) else "its tokens are refused"
            log.warning("issuer %s: the keys could not be fetched (%s); %s until they can", self._name, reason, kept)
        self._failures += 1
