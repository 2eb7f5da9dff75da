"""Limit on registrations per client address (an IPv6 /64 counts as one address).

An attempt counts once its fields are valid, because from then on it costs a hash, and because the response reveals
whether the email address is taken. The limit therefore bounds hashing, accounts and enumeration. Refused attempts are
not counted and cost no hash.
"""

import time
from collections.abc import Callable
from typing import Final, NamedTuple

from gateway.errors import Refusal
from gateway.gate.leaky_buckets import Buckets, Quota
from gateway.gate.rate_limits import RouteLimit, SharedBuckets
from gateway.settings.model import RegistrationLimitSettings
from gateway.wire.addresses import Callers

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
