"""Which target gets the next request."""

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Generic, Literal, Protocol, TypeVar

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

    def choose(self, now: float, avoid: C | None = None) -> C | None:
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
