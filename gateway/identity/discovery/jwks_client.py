"""The published keys of one issuer: fetched in the background, renewed early, kept during outages.

- Known keys are always usable: no request waits for a renewal, and an outage removes no keys.
- An unknown key id causes at most one fetch per COOLDOWN seconds, over all clients, because clients choose the ids.
- At most one fetch runs at a time; all waiters share it.

The URL of the keys is configured, or found by OpenID Connect Discovery.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection
from secrets import SystemRandom
from typing import Final

from gateway.identity.discovery.fetch import Document, FetchFailed, fetch
from gateway.identity.jwks import KeySet, UnusableKeySet, read_key_set
from gateway.identity.jws import strict_json
from gateway.identity.keys import VerifyingKey
from gateway.wire.addresses import is_loopback, is_trusted_transport

Fetch = Callable[[], Awaitable[Document]]

_WELL_KNOWN: Final = "/.well-known/openid-configuration"


def keys_at(address: str, *, insecure: bool = False) -> Fetch:
    """A fetch function for the key set at this address. `insecure` allows plain HTTP on any host."""
    return lambda: fetch(address, insecure=insecure)


def discovered_keys(issuer: str) -> Fetch:
    """A fetch function for the key set of an issuer, by OpenID Connect Discovery 1.0.

    It reads the OpenID configuration on every fetch, because the URL of the keys can change too.
    """

    async def fetch_keys() -> Document:
        # Section 4.1: a trailing `/` of the issuer is removed first.
        document = await fetch(issuer.removesuffix("/") + _WELL_KNOWN)
        return await fetch(_key_address(document.text, issuer))

    return fetch_keys


def _key_address(text: bytes, issuer: str) -> str:
    """The `jwks_uri` of an OpenID configuration. Raises FetchFailed if it is missing or unsafe."""
    try:
        configuration = strict_json(text)
    except ValueError:
        raise FetchFailed("the OpenID configuration is not JSON without repeated members") from None
    if not isinstance(configuration, dict):
        raise FetchFailed("the OpenID configuration is not a JSON object")
    # Section 4.3: must be identical, otherwise keys of another issuer would be accepted for this one.
    if configuration.get("issuer") != issuer:
        raise FetchFailed("the OpenID configuration belongs to another issuer")
    address = configuration.get("jwks_uri")
    if not isinstance(address, str) or not is_trusted_transport(address):
        raise FetchFailed("the OpenID configuration has no https jwks_uri")
    # SSRF: a remote issuer must not direct requests to services on this machine.
    if is_loopback(address) and not is_loopback(issuer):
        raise FetchFailed("the OpenID configuration has a jwks_uri on this machine")
    return address


COOLDOWN: Final = 30.0  # Seconds between fetches caused by unknown keys.
# Seconds that a key set is used, regardless of the max-age of its server.
LEAST_AGE, USUAL_AGE, MOST_AGE = 60.0, 600.0, 3600.0
_EARLY: Final = (0.7, 0.8)  # Fractions of the age at which it is renewed, spread over replicas.
_RETRIES: Final = (1.0, 2.0, 5.0, 10.0, 20.0, 30.0)  # Seconds after consecutive failures. The last value repeats.

_between: Final = SystemRandom().uniform

log: Final = logging.getLogger("gateway.issuers")


class PublishedKeySet:
    """The keys returned by `fetch`. Call `tick` regularly.

    `clock` returns seconds, as passed to `tick`. `chance` returns a number between two others, which
    spreads the renewals of replicas.
    """

    def __init__(
        self,
        name: str,
        fetch: Fetch,
        *,
        algorithms: Collection[str],
        clock: Callable[[], float],
        chance: Callable[[float, float], float] = _between,
    ) -> None:
        self._name = name
        self._fetch = fetch
        self._algorithms = tuple(algorithms)
        self._clock = clock
        self._chance = chance
        self._keys = KeySet()
        self._due = float("-inf")
        self._next_asking = float("-inf")
        self._failures = 0
        self._flight: asyncio.Task[None] | None = None
        self._listeners: list[Callable[[], None]] = []

    def get(self, kid: str, algorithm: str) -> tuple[VerifyingKey, ...]:
        return self._keys.get(kid, algorithm)

    @property
    def is_empty(self) -> bool:
        """Whether no usable key is known."""
        return not len(self._keys)

    def holds(self, key: object) -> bool:
        return self._keys.holds(key)

    @property
    def may_be_asked(self) -> bool:
        return self._flight is not None or self._clock() >= self._next_asking

    async def ask(self) -> None:
        if self._flight is None:
            if self._clock() < self._next_asking:
                return
            self._next_asking = self._clock() + COOLDOWN
            self._start_lookup()
        assert self._flight is not None
        # `wait` does not cancel the shared task when a waiter is cancelled.
        await asyncio.wait((self._flight,))

    def on_loss(self, listener: Callable[[], None]) -> None:
        self._listeners.append(listener)

    def tick(self, now: float) -> None:
        """Renew the keys if they are due."""
        if now >= self._due and self._flight is None:
            self._start_lookup()

    def close(self) -> None:
        """Stop fetching."""
        self._due = float("inf")
        if self._flight is not None:
            self._flight.cancel()

    def _start_lookup(self) -> None:
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
            log.warning("issuer %s publishes no usable key: its tokens are refused", self._name)
        elif self._failures:
            log.warning("issuer %s: the keys can be fetched again", self._name)
        lost = keys.lacks_any_of(self._keys)
        self._keys, self._failures = keys.after(self._keys), 0
        age = min(max(USUAL_AGE if max_age is None else max_age, LEAST_AGE), MOST_AGE)
        self._due = self._clock() + age * self._chance(*_EARLY)
        if lost:
            for listener in self._listeners:
                listener()

    def _failed(self, reason: str) -> None:
        """Try again later. Each failure is logged, because the reason can change; the handler limits how often."""
        self._due = self._clock() + _RETRIES[min(self._failures, len(_RETRIES) - 1)]
        if reason:
            kept = f"{len(self._keys)} earlier keys are used" if len(self._keys) else "its tokens are refused"
            log.warning("issuer %s: the keys could not be fetched (%s); %s until they can", self._name, reason, kept)
        self._failures += 1
