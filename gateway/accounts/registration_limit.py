"""How many accounts clients at one address may register (a whole /64 of IPv6 is one address).

An attempt counts once its fields are valid, because it costs a hash from then on, and because the answer tells whether
the e-mail address is taken. So the limit bounds hashes, accounts, and enumeration alike. What it refuses is not counted
and costs no hash.
"""

import time
from collections.abc import Callable
from typing import Final, NamedTuple

from gateway.errors import Refusal
from gateway.limits.buckets import Buckets
from gateway.limits.callers import Callers
from gateway.limits.limits import RouteLimit, SharedBuckets
from gateway.limits.quota import Quota
from gateway.settings.model import RegistrationLimitSettings

_ADDRESSES: Final = 20_000  # remembered in this process; those that were quiet longest are forgotten first


class _Client(NamedTuple):
    client: str


class RegistrationLimit:
    """`settings` None: no limit. `shared` is None where this process is the only one; `clock` gives seconds."""

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
        """Count an attempt of a client at this address. Raises `rate_limited`, and then it is not counted."""
        if self._limit is None:
            return
        client = _Client(address)
        count = self._limit.count(None, client) or await self._limit.count_shared(None, client)
        if count.retry_after is not None:
            reason = "too many registrations from one address"
            raise Refusal("rate_limited", reason, retry_after=count.retry_after, headers=count.fields)
