"""Limits on mails that strangers cause, per recipient and per client address (an IPv6 /64 counts as one address).

Every request counts before any look-up. Beyond a limit the response stays the same and no mail is sent, so the limits
do not reveal which addresses have an account.
"""

import hashlib
import time
from collections.abc import Callable
from typing import Final, NamedTuple

from gateway.gate.leaky_buckets import Buckets, Quota
from gateway.gate.rate_limits import RouteLimit, SharedBuckets
from gateway.settings.model import MailLimitSettings
from gateway.wire.addresses import Callers

_ROOM: Final = 20_000  # Recipients, and client addresses, remembered in this process.


class _Client(NamedTuple):
    client: str


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
            buckets = Buckets(Quota(requests, settings.per), _ROOM)
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
