"""Which target gets the next request.

How much may be sent a second time: when everything fails, retries must not double the load on what is failing.
"""

from collections.abc import Iterable, Sequence
from hashlib import blake2b
from itertools import chain
from typing import Final, Generic, Literal, Protocol, TypeVar

from gateway.proxy.health import TargetHealth


class Candidate(Protocol):
    """What a target must show to be chosen."""

    @property
    def health(self) -> TargetHealth:
        """Whether it may be sent requests."""

    @property
    def load(self) -> int:
        """Requests that are under way there, or wait for a connection."""


C = TypeVar("C", bound=Candidate)


class Balancer(Generic[C]):
    """Chooses among the targets of one upstream."""

    def __init__(self, candidates: Sequence[C], policy: Literal["round_robin", "least_requests"]) -> None:
        self._candidates = tuple(candidates)
        self._next = 0  # whose turn it is
        self._by_load = policy == "least_requests"

    def choose(self, now: float, avoid: C | None = None, key: bytes | None = None) -> C | None:
        """A target; None when none is well. `avoid` is where the request has failed before: only if there is no other.

        With one target, which is the common case, nothing is weighed. A target that has just come back is weighed when
        it would be chosen, and only then: its share is one of its own turns, not of everybody's.
        """
        candidates = self._candidates
        if len(candidates) == 1:
            return candidates[0] if candidates[0].health.usable(now) else None
        chosen = None
        for place in self._in_order():
            health = candidates[place].health
            if candidates[place] is avoid or not health.usable(now):
                continue
            takes_turn = health.takes_turn(now)
            if takes_turn or chosen is None:
                chosen = place
            if takes_turn:
                break
        if chosen is None:
            return avoid if avoid is not None and avoid.health.usable(now) else None
        # The turn goes on behind whoever was chosen. If it went on by one, the target behind one that is out would get
        # its share as well as its own.
        self._next = (chosen + 1) % len(candidates)
        return candidates[chosen]

    def _in_order(self) -> Iterable[int]:
        """The places of all targets, the one to be chosen first; by turns that costs the same for any number."""
        candidates = self._candidates
        turns = chain(range(self._next, len(candidates)), range(self._next))
        if not self._by_load:
            return turns
        return sorted(turns, key=lambda place: candidates[place].load)  # stable: among equals it goes by turns

    def wait(self, now: float) -> float:
        """Seconds until a target may be well again, as far as can be said, when none is."""
        return min(one.health.wait(now) for one in self._candidates)


class HashBalancer(Balancer[C]):
    """Requests with one key go to one target (rendezvous hashing). Requests without a key go by turns, as in HAProxy.

    Each target has a weight for a key, and the usable target with the largest weight is chosen. A target that is down
    leaves all other keys where they are, and gets its own back when it is up. The weights depend on the key and on the
    `names` of the targets alone, so all workers and replicas choose alike. Slow start does not apply: it would move a
    key to and fro.
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


_FLOOR: Final = 20.0  # retries that are always there, so that a quiet gateway can retry at all
_CEILING: Final = 100.0  # what can be saved up: enough for what is under way to a target when it dies, and no storm


class RetryBudget:
    """`share` of the requests, plus 20, over the life of the process. Counted as tokens, of which at most 100 are saved
    up: however good the last hour was, once everything fails no more than those are added to the share."""

    __slots__ = ("_share", "_tokens")

    def __init__(self, share: float) -> None:
        self._share = share
        self._tokens = _FLOOR

    def request(self) -> None:
        """A request came."""
        if self._tokens < _CEILING:
            self._tokens += self._share

    def take(self) -> bool:
        """Whether one more retry is in the budget; if so it is taken from it."""
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True
