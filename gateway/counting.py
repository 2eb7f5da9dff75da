"""What is counted away from the hot path, for the metrics page: plain numbers that their owners add to.

Whoever counts owns its numbers and knows nothing of metrics; the metrics page asks for them when somebody scrapes.
A sample is the name of a metric family, the values of its labels in the family's order, and a number, or a list for a
histogram. The families, with their labels and texts, are those of `operations/families.py`.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple

# Upper bounds of histograms in seconds, inclusive; the last bucket has no bound.
BOUNDS: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
BUCKETS: Final = len(BOUNDS) + 1

OTHER: Final = "other"
_MOST: Final = 1000

Histogram = list[float]  # BUCKETS numbers, then the sum of what was observed in seconds


class Sample(NamedTuple):
    """One value of a family: `labels` are the values of its labels, in its order."""

    family: str
    labels: tuple[str, ...]
    value: float | Histogram


Source = Callable[[], Iterable[Sample]]
"""Answers what has been counted so far, or how things are now. Called on the loop, and must not wait."""


class Tally:
    """Counts by labels: `tally.add("locked", "account")`. What the values of labels may be is for its owner to bound;
    beyond a thousand combinations all others are counted together, each label as `other`."""

    __slots__ = ("_counts", "_family")

    def __init__(self, family: str) -> None:
        self._family = family
        self._counts: dict[tuple[str, ...], float] = {}

    def add(self, *labels: str, by: float = 1) -> None:
        """Count once, or `by` times."""
        if labels not in self._counts and len(self._counts) >= _MOST:
            labels = (OTHER,) * len(labels)
        self._counts[labels] = self._counts.get(labels, 0) + by

    def samples(self) -> Iterator[Sample]:
        """What was counted so far."""
        for labels, count in self._counts.items():
            yield Sample(self._family, labels, count)


class Durations:
    """A histogram of durations in seconds."""

    __slots__ = ("_counts", "_family")

    def __init__(self, family: str) -> None:
        self._family = family
        self._counts: Histogram = [0] * BUCKETS + [0.0]

    def observe(self, seconds: float) -> None:
        """Count one; a clock that was set back shows as 0."""
        seconds = max(seconds, 0.0)
        self._counts[bisect_left(BOUNDS, seconds)] += 1
        self._counts[-1] += seconds

    def samples(self) -> Iterator[Sample]:
        """What was observed so far."""
        yield Sample(self._family, (), self._counts[:])
