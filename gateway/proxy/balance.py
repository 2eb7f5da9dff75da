"""Which target gets the next request."""

from collections.abc import Callable, Sequence
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
        self._next = 0
        self._choose: Callable[[list[C]], C] = self._least_loaded if policy == "least_requests" else _first

    def choose(self, now: float, avoid: C | None = None) -> C | None:
        """A target; None when none is well. `avoid` is where the request has failed before: only if there is no other.

        With one target that is well, which is the common case, nothing is weighed.
        """
        candidates = self._candidates
        if len(candidates) == 1:
            return candidates[0] if candidates[0].health.usable(now) else None
        usable = [one for one in self._in_turn() if one.health.usable(now)]
        if avoid in usable and len(usable) > 1:
            usable = [one for one in usable if one is not avoid]
        if not usable:
            return None
        return self._choose([one for one in usable if one.health.takes_turn(now)] or usable)

    def _in_turn(self) -> list[C]:
        """All candidates, beginning behind the one that began the last time."""
        start = self._next
        self._next = (start + 1) % len(self._candidates)
        return [*self._candidates[start:], *self._candidates[:start]]

    @staticmethod
    def _least_loaded(usable: list[C]) -> C:
        return min(usable, key=lambda one: one.load)


def _first(usable: list[C]) -> C:
    return usable[0]
