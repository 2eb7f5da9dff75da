"""Counters and histograms for metrics, outside the hot path.

Components own plain numbers and do not depend on the metrics endpoint, which reads them on each scrape. A sample is the
name of a metric family, the values of its labels in the family's order, and a number, or a list for a histogram.
`observability/metrics/families.py` defines the families.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple

# Inclusive upper bounds in seconds. The last bucket is unbounded. mypyc does not find a tuple of a fixed size when it
# sets BUCKETS.
BOUNDS: Final[tuple[float, ...]] = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)
BUCKETS: Final = len(BOUNDS) + 1

OTHER: Final = "other"
_MOST: Final = 1000

Histogram = list[float]  # BUCKETS counts, followed by the sum in seconds.


class Sample(NamedTuple):
    """One value of a family. `labels` are the values of its labels, in the family's order."""

    family: str
    labels: tuple[str, ...]
    value: float | Histogram


SampleSource = Callable[[], Iterable[Sample]]
"""Returns current samples. Runs on the event loop and must not block."""


class LabeledCounter:
    """Counts by labels: `tally.add("locked", "account")`. Owners must bound their label values; beyond a thousand
    combinations further ones are counted with every label set to `other`."""

    __slots__ = ("_counts", "_family")

    def __init__(self, family: str) -> None:
        self._family = family
        self._counts: dict[tuple[str, ...], float] = {}

    def add(self, *labels: str, by: float = 1) -> None:
        """Increment by `by`."""
        if labels not in self._counts and len(self._counts) >= _MOST:
            labels = (OTHER,) * len(labels)
        self._counts[labels] = self._counts.get(labels, 0) + by

    def samples(self) -> Iterator[Sample]:
        for labels, count in self._counts.items():
            yield Sample(self._family, labels, count)


class Durations:
    """A histogram of durations in seconds."""

    __slots__ = ("_counts", "_family")

    def __init__(self, family: str) -> None:
        self._family = family
        self._counts: Histogram = [0] * BUCKETS + [0.0]

    def observe(self, seconds: float) -> None:
        """Record one duration. Negative values, after the clock was set back, count as 0."""
        seconds = max(seconds, 0.0)
        self._counts[bisect_left(BOUNDS, seconds)] += 1
        self._counts[-1] += seconds

    def samples(self) -> Iterator[Sample]:
        yield Sample(self._family, (), self._counts[:])
