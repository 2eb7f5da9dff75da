"""The choice of the target for a request, and the budget for retries.

The budget keeps retries from doubling the load when everything fails.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from hashlib import blake2b
from itertools import chain
from typing import Final, Generic, Literal, Protocol, TypeAlias, TypeVar

from gateway.gate.admission import RequestHead
from gateway.proxy.health import TargetHealth
from gateway.settings.model import BalanceSettings


class BalancedTarget(Protocol):
    """The properties of a target that the balancer needs."""

    @property
    def health(self) -> TargetHealth:
        """The health of the target."""

    @property
    def load(self) -> int:
        """The number of requests in progress on the target or waiting for a connection."""


C = TypeVar("C", bound=BalancedTarget)


class Balancer(Generic[C]):
    """Chooses among the targets of one upstream."""

    def __init__(self, candidates: Sequence[C], policy: Literal["round_robin", "least_requests"]) -> None:
        self._candidates = tuple(candidates)
        self._next = 0  # the index of the target whose turn it is
        self._by_load = policy == "least_requests"

    def choose(self, now: float, avoid: C | None = None, key: bytes | None = None) -> C | None:
        """Return a usable target, or None. `avoid` is a target on which the request has failed: it is chosen only if no
        other is usable.

        With one target, the common case, no choice is computed. Slow start applies when a returned target would be
        chosen: it can pass on its own turn only.
        """
        candidates = self._candidates
        if len(candidates) == 1:
            return candidates[0] if candidates[0].health.usable(now) else None
        chosen = None
        for index in self._in_order():
            health = candidates[index].health
            if candidates[index] is avoid or not health.usable(now):
                continue
            in_rotation = health.in_rotation(now)
            if in_rotation or chosen is None:
                chosen = index
            if in_rotation:
                break
        if chosen is None:
            return avoid if avoid is not None and avoid.health.usable(now) else None
        # The next turn starts after the chosen target. If it advanced by one, the target after an unusable one would
        # get two shares.
        self._next = (chosen + 1) % len(candidates)
        return candidates[chosen]

    def _in_order(self) -> Iterable[int]:
        """Return the indexes of all targets by preference. Round robin costs the same for any number of targets."""
        candidates = self._candidates
        turns = chain(range(self._next, len(candidates)), range(self._next))
        if not self._by_load:
            return turns
        return sorted(turns, key=lambda index: candidates[index].load)  # stable: equal loads keep the turns

    def wait(self, now: float) -> float:
        """Return the least number of seconds until a target can be usable again."""
        return min(one.health.wait(now) for one in self._candidates)


class HashBalancer(Balancer[C]):
    """Sends requests with the same key to the same target (rendezvous hashing). Requests without a key take turns, as
    in HAProxy.

    Each target has a weight for a key, and the usable target with the largest weight is chosen. When a target goes
    down, only its own keys move, and they return when it is up. The weights depend only on the key and on the `names`
    of the targets, so all workers and replicas choose alike. Slow start does not apply, because it would move a key
    back and forth.
    """

    def __init__(self, candidates: Sequence[C], names: Sequence[str]) -> None:
        super().__init__(candidates, "round_robin")
        seeds = (blake2b(name.encode(), digest_size=32).digest() for name in names)
        self._seeded = tuple(zip(candidates, seeds, strict=True))

    def choose(self, now: float, avoid: C | None = None, key: bytes | None = None) -> C | None:
        if key is None:
            return super().choose(now, avoid)
        digest = blake2b(key, digest_size=16).digest()  # a key can be as long as a request head
        chosen, largest = None, b""
        for candidate, seed in self._seeded:
            if candidate is avoid or not candidate.health.usable(now):
                continue
            weight = blake2b(digest, key=seed, digest_size=8).digest()
            if weight > largest:
                chosen, largest = candidate, weight
        if chosen is None and avoid is not None and avoid.health.usable(now):
            return avoid
        return chosen


_FLOOR: Final = 20.0  # retries that are always available, so that a quiet gateway can retry at all
_CEILING: Final = (
    100.0  # the most retries that are saved: enough for the requests on a target that dies, and not enough for a storm
)


class RetryBudget:
    """Allows retries for `share` of the requests, plus 20 over the life of the process. Counted in tokens, of which at
    most 100 are saved: when everything fails, a long quiet time adds no more than those."""

    __slots__ = ("_share", "_tokens")

    def __init__(self, share: float) -> None:
        self._share = share
        self._tokens = _FLOOR

    def earn(self, requests: int) -> None:
        """Count requests."""
        self._tokens = min(_CEILING, self._tokens + self._share * requests)

    def take(self) -> bool:
        """Return whether the budget allows another retry, and count it."""
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


HashKey: TypeAlias = Callable[[RequestHead, bytes], bytes | None]
"""Returns the key for a request and its upstream field block, or None if the request has no key."""


def hash_key_of(balance: BalanceSettings) -> HashKey:
    """Return the function that finds the key of a request."""
    kind, _, name = balance.hash.partition(" ")
    if kind == "cookie":
        return _cookie(name.encode("ascii"))
    if kind == "header":
        return _header(name.encode("ascii"))
    return _client_address


def _client_address(request: RequestHead, block: bytes) -> bytes | None:
    return request.client.encode("ascii", "replace") or None


def _cookie(name: bytes) -> HashKey:
    """Use the first cookie of this name with a value (RFC 6265 5.4). Names are case-sensitive."""
    pair = re.compile(rb"(?:^|;)[ \t]*" + re.escape(name) + rb"[ \t]*=[ \t]*([^;]*[^; \t])")

    def find(request: RequestHead, block: bytes) -> bytes | None:
        for field, value in request.fields.kept:
            if len(field) == 6 and field.lower() == b"cookie":
                found = pair.search(value)
                if found is not None:
                    return found[1]
        return None

    return find


def _header(name: bytes) -> HashKey:
    """Use the first field of this name in the upstream request. It includes the identity headers of the gateway and
    excludes those that a client forges."""
    line = re.compile(rb"^" + re.escape(name) + rb":[ \t]*([^\r\n]*[^\r\n \t])", re.IGNORECASE | re.MULTILINE)

    def find(request: RequestHead, block: bytes) -> bytes | None:
        found = line.search(block)
        return None if found is None else found[1]

    return find
