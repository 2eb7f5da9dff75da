"""Compute figures from windows: medians with their spread, and ratios within a round.

The speed of a shared machine varies over minutes, for all peers alike. Ratios are therefore computed within each round,
where both peers were measured seconds apart, and reported as the median over rounds.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any


@dataclass(frozen=True, slots=True)
class Window:
    """One peer in one round: requests answered, CPU time, and latencies in milliseconds."""

    requests: int
    seconds: float
    cpu_seconds: float
    p50: float
    p90: float
    p99: float
    p999: float
    load_average: float

    @property
    def cpu_us(self) -> float:
        """CPU microseconds of the proxy's processes per request."""
        return self.cpu_seconds / self.requests * 1e6

    @property
    def rps(self) -> float:
        """Requests answered per second."""
        return self.requests / self.seconds

    def as_json(self) -> dict[str, float]:
        return {**asdict(self), "cpu_us": round(self.cpu_us, 2), "rps": round(self.rps, 1)}


@dataclass(frozen=True, slots=True)
class Spread:
    """A median and its range."""

    median: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """The figures of one peer with one kind of traffic (bench.traffic) over all rounds."""

    name: str
    title: str
    does: str
    version: str
    identity: bool
    windows: tuple[Window, ...]
    rss: int
    pss: int
    traffic: str

    @property
    def key(self) -> tuple[str, str]:
        return self.name, self.traffic

    def spread(self, of: Callable[[Window], float]) -> Spread:
        return spread([of(window) for window in self.windows])

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "windows": [window.as_json() for window in self.windows]}


def cpu_us(window: Window) -> float:
    return window.cpu_us


def rps(window: Window) -> float:
    return window.rps


def p50(window: Window) -> float:
    return window.p50


def p99(window: Window) -> float:
    return window.p99


def spread(values: Sequence[float]) -> Spread:
    """The median and the range. Raises ValueError without values."""
    if not values:
        raise ValueError("a spread of no values")
    return Spread(median(values), min(values), max(values))


def ratio(ours: Outcome, theirs: Outcome, of: Callable[[Window], float]) -> Spread:
    """`ours` as a multiple of `theirs`, by round. Raises ValueError without a common round."""
    return spread([of(mine) / of(other) for mine, other in zip(ours.windows, theirs.windows, strict=False)])


def outcome_from_json(data: dict[str, Any]) -> Outcome:
    """The inverse of as_json."""
    windows = [Window(**{name: values[name] for name in Window.__dataclass_fields__}) for values in data["windows"]]
    # Results without the kind of traffic are of the time before heads varied.
    return Outcome(**{"traffic": "repeated", **data, "windows": tuple(windows)})
