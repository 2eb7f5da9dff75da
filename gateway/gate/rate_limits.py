"""Rate limits of routes: keys, local or shared counting, and response fields.

With a shared store every request is counted there. Results are cached: a client known to be over the limit is refused
locally, and when the store is down counting continues in this process from the last known value. Then every process
counts alone, so together they can allow the limit times their number: an outage locks no client out.
"""

import hashlib
import time
from collections.abc import Callable, Iterable, Mapping
from hashlib import sha256
from typing import Final, NamedTuple, Protocol

from gateway.errors import Refusal, StorageUnavailable
from gateway.gate.leaky_buckets import Buckets, Quota
from gateway.policy.route import Route
from gateway.settings.model import MailLimitSettings, RateLimitSettings, RegistrationLimitSettings
from gateway.wire.addresses import Callers
from gateway.wire.fields import Field

_MAX_CLIENTS: Final = 100_000  # Clients remembered in this process, over all limits.
_MIN_CLIENTS: Final = 100  # The minimum for one limit.

Clock = Callable[[], float]


class SharedBuckets(Protocol):
    """Buckets that all replicas share."""

    @property
    def available(self) -> bool:
        """Whether a call is likely to succeed."""

    async def take(self, key: str, quota: Quota) -> float:
        """Like `Buckets.take`, on the store's clock. Raises StorageUnavailable within 250 ms."""


class Count(NamedTuple):
    """The result for a request. `retry_after` is None if it passes, else the seconds to wait. `fields` are the
    RateLimit response fields (draft-ietf-httpapi-ratelimit-headers)."""

    retry_after: int | None
    fields: tuple[Field, ...]


class Addressed(Protocol):
    """The part of a request that limits need."""

    @property
    def client(self) -> str:
        """The client's address: the peer of the socket, or the address forwarded by a trusted proxy."""


class RouteLimit:
    """The limit of one route. `key` is the prefix of its keys in the shared store."""

    __slots__ = ("_by_user", "_callers", "_clock", "_key", "_shared", "_texts", "buckets")

    def __init__(
        self, buckets: Buckets, key: str, *, by_user: bool, shared: SharedBuckets | None, callers: Callers, clock: Clock
    ) -> None:
        self.buckets = buckets
        self._key = key
        self._by_user = by_user
        self._shared = shared
        self._callers = callers
        self._clock = clock
        self._texts = {name: _Texts(name, buckets.quota) for name in ("user", "address")}

    def count(self, user_id: str | None, request: Addressed) -> Count | None:
        """Count a request of a user or an anonymous client; None if `count_shared` must be awaited."""
        caller, kind = self._caller(user_id, request)
        now = self._clock()
        if self._shared is None or not self._shared.available:
            return self._count_of(self.buckets.take(caller, now), kind)
        level = self.buckets.look(caller, now)
        return self._count_of(level, kind) if level > self.buckets.quota.full else None

    async def count_shared(self, user_id: str | None, request: Addressed) -> Count:
        """Count a request for all replicas, or for this process if the shared store is down."""
        assert self._shared is not None, "call count() first"
        caller, kind = self._caller(user_id, request)
        quota, now = self.buckets.quota, self._clock()
        try:
            level = await self._shared.take(self._key + caller, quota)
        except StorageUnavailable:
            return self._count_of(self.buckets.take(caller, now), kind)
        # As of before the call: the bucket leaked during it, and the client must not wait for that time twice.
        self.buckets.note(caller, level if level <= quota.full else level - 1.0, now)
        return self._count_of(level, kind)

    def _caller(self, user_id: str | None, request: Addressed) -> tuple[str, str]:
        """The key of the client and its kind. Anonymous clients are always counted by address."""
        if user_id is not None and self._by_user:
            return user_id, "user"
        return self._callers.by_address(request.client), "address"

    def _count_of(self, level: float, kind: str) -> Count:
        quota, texts = self.buckets.quota, self._texts[kind]
        wait = quota.wait(level)
        state = (b"ratelimit", texts.state % (quota.remaining(level), wait))
        return Count(None if level <= quota.full else wait, (texts.policy, state))


class _Texts:
    """The constant part of the RateLimit fields. Structured fields (RFC 9651) express `w` in whole seconds only; other
    periods omit it."""

    __slots__ = ("policy", "state")

    def __init__(self, name: str, quota: Quota) -> None:
        window = f";w={int(quota.per)}" if quota.per.is_integer() else ""
        self.policy: Field = (b"ratelimit-policy", f'"{name}";q={quota.requests}{window}'.encode())
        self.state = f'"{name}";r=%d;t=%d'.encode()


class Limits:
    """The limits of all limited routes."""

    def __init__(
        self,
        routes: Iterable[Route] = (),
        *,
        shared: SharedBuckets | None = None,
        clock: Clock = time.monotonic,
        kept: Mapping[str, Buckets] | None = None,
    ) -> None:
        limited = [(route, limit) for route in routes if (limit := _limit_of(route)) is not None]
        max_clients = max(_MIN_CLIENTS, _MAX_CLIENTS // max(1, len(limited)))
        self._shared = shared
        self._clock = clock
        callers = Callers()
        self._buckets: dict[str, Buckets] = {}
        self._limits: dict[Route, RouteLimit] = {}
        for route, settings in limited:
            key = _key(route, settings)
            before = kept.get(key) if kept is not None else None
            buckets = Buckets(Quota(settings.requests, settings.per), max_clients) if before is None else before
            self._buckets[key] = buckets
            by_user = settings.by == "user"
            self._limits[route] = RouteLimit(buckets, key, by_user=by_user, shared=shared, callers=callers, clock=clock)

    def renewed(self, routes: Iterable[Route]) -> "Limits":
        """The limits of a changed policy. Unchanged limits keep their counts, so a reload resets no client."""
        return Limits(routes, shared=self._shared, clock=self._clock, kept=self._buckets)

    def of(self, route: Route) -> RouteLimit | None:
        return self._limits.get(route)


def _limit_of(route: Route) -> RateLimitSettings | None:
    return None if route.settings is None else route.settings.rate_limit


def _key(route: Route, settings: RateLimitSettings) -> str:
    """A key prefix that identifies the limit. A digest, because names of routes can contain braces, which select the
    slot of a key in a Redis cluster."""
    counted = repr((route.name, settings.requests, settings.per, settings.by))
    return f"limit:{sha256(counted.encode()).hexdigest()[:16]}:"


# Limit on registrations per client address (an IPv6 /64 counts as one address).
#
# An attempt counts once its fields are valid, because from then on it costs a hash, and because the response reveals
# whether the email address is taken. The limit therefore bounds hashing, accounts and enumeration. Refused attempts
# are not counted and cost no hash.
_ADDRESSES: Final = 20_000  # Addresses remembered in this process; the least recently active are evicted first.


class _Client(NamedTuple):
    client: str


class RegistrationLimit:
    """`settings` of None means no limit. `shared` is None for a single process; `clock` returns seconds."""

    def __init__(
        self,
        settings: RegistrationLimitSettings | None,
        *,
        shared: SharedBuckets | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limit: RouteLimit | None = None
        if settings is not None:
            key = f"limit:registration:{settings.requests}/{settings.per:g}:"
            buckets = Buckets(Quota(settings.requests, settings.per), _ADDRESSES)
            self._limit = RouteLimit(buckets, key, by_user=False, shared=shared, callers=Callers(), clock=clock)

    async def count(self, address: str) -> None:
        """Count an attempt from this address. Raises `rate_limited`, without counting the attempt."""
        if self._limit is None:
            return
        client = _Client(address)
        count = self._limit.count(None, client) or await self._limit.count_shared(None, client)
        if count.retry_after is not None:
            reason = "too many registrations from one address"
            raise Refusal("rate_limited", reason, retry_after=count.retry_after, headers=count.fields)


# Limits on mails that anonymous requests cause, per recipient and per client address (an IPv6 /64 is one address).
#
# Every request counts before any look-up. Beyond a limit the response stays the same and no mail is sent, so the
# limits do not reveal which addresses have an account.
_MAX_MAIL_KEYS: Final = 20_000  # Recipients, and client addresses, remembered in this process.


class MailLimits:
    """Implements MailLimiter. `shared` is None for a single process; `clock` returns seconds."""

    def __init__(
        self,
        settings: MailLimitSettings,
        *,
        shared: SharedBuckets | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        callers = Callers()

        def limit(name: str, requests: int, *, by_user: bool) -> RouteLimit:
            key = f"limit:mail-{name}:{requests}/{settings.per:g}:"
            buckets = Buckets(Quota(requests, settings.per), _MAX_MAIL_KEYS)
            return RouteLimit(buckets, key, by_user=by_user, shared=shared, callers=callers, clock=clock)

        self._by_address = limit("address", settings.per_address, by_user=False)
        self._by_recipient = limit("recipient", settings.per_recipient, by_user=True)

    async def admits(self, recipient: str, address: str) -> bool:
        """Count a mail to a canonical address. A client over its own limit does not use up that of a recipient."""
        client = _Client(address)
        if not await _admits(self._by_address, None, client):
            return False
        # A digest, because names of keys appear in the logs of the shared store.
        name = hashlib.sha256(recipient.encode()).hexdigest()[:32]
        return await _admits(self._by_recipient, name, client)


async def _admits(limit: RouteLimit, user: str | None, client: _Client) -> bool:
    count = limit.count(user, client) or await limit.count_shared(user, client)
    return count.retry_after is None
