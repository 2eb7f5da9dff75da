"""Figures of a soak test, and their growth."""

import importlib.util
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import linear_regression, median
from typing import Any, Final

from tests.support.raw import MiB

_WARM: Final = 0.25  # share of the time in which caches fill
_CHARTED: Final = 60.0  # seconds from which a run gets a chart
_TITLES: Final = {
    "memory": "resident memory (MiB)",
    "descriptors": "descriptors",
    "tasks": "tasks of the event loop",
    "p99": "p99 of small good requests (ms)",
}


@dataclass(frozen=True, slots=True)
class Sample:
    """One second: `at` seconds since the start, memory in MiB, p99 in milliseconds (None: no request was measured).

    `cpu` and `good` are totals since the start: CPU seconds of the event loop, and good requests.
    """

    at: float
    memory: float
    descriptors: int
    tasks: int
    p99: float | None
    cpu: float
    good: int


def percentile_99(seconds: Sequence[float]) -> float | None:
    """In milliseconds."""
    ordered = sorted(seconds)
    return ordered[int(len(ordered) * 0.99)] * 1000 if ordered else None


def warm(samples: Sequence[Sample]) -> Sequence[Sample]:
    """The samples after the time in which caches fill."""
    return samples[int(len(samples) * _WARM) :]


def growth(samples: Sequence[Sample], value: Callable[[Sample], float]) -> float:
    """The growth of the value over these samples, by linear regression."""
    times = [sample.at for sample in samples]
    slope, _ = linear_regression(times, [value(sample) for sample in samples])
    return slope * (times[-1] - times[0])


def halves(samples: Sequence[Sample], figure: Callable[[Sequence[Sample]], float]) -> tuple[float, float]:
    """The figure of the first half and of the second."""
    middle = len(samples) // 2
    return figure(samples[: middle + 1]), figure(samples[middle:])


def usual_p99(samples: Sequence[Sample]) -> float:
    """The median p99 in milliseconds."""
    return median(sample.p99 for sample in samples if sample.p99 is not None)


def cost(samples: Sequence[Sample]) -> float:
    """CPU milliseconds of the event loop for each good request, including the cost of hostile traffic."""
    first, last = samples[0], samples[-1]
    return (last.cpu - first.cpu) * 1000 / (last.good - first.good)


def write(samples: Sequence[Sample], summary: dict[str, Any], folder: Path) -> Path:
    """Write the samples as JSON, and those of a minute or more as a chart if matplotlib is installed. Returns the path
    without suffix."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / time.strftime("%Y-%m-%dT%H%M%SZ", time.gmtime())
    data = {"summary": summary, "samples": [asdict(sample) for sample in samples]}
    file.with_suffix(".json").write_text(json.dumps(data, indent=1), encoding="utf-8")
    if samples[-1].at >= _CHARTED and importlib.util.find_spec("matplotlib") is not None:
        _plot(samples, file.with_suffix(".svg"))
    return file


def _plot(samples: Sequence[Sample], file: Path) -> None:
    import matplotlib  # type: ignore[import-not-found,unused-ignore]  # optional

    matplotlib.use("Agg")
    from matplotlib import pyplot  # type: ignore[import-not-found,unused-ignore]

    figure, axes = pyplot.subplots(len(_TITLES), 1, figsize=(10, 10), sharex=True)
    for axis, (name, title) in zip(axes, _TITLES.items(), strict=True):
        points = [(sample.at, getattr(sample, name)) for sample in samples]
        axis.plot(*zip(*[point for point in points if point[1] is not None], strict=True), linewidth=1)
        axis.set_ylim(bottom=0)
        axis.set_title(title, fontsize=10)
        axis.grid(alpha=0.2)
    axes[-1].set_xlabel("seconds")
    figure.tight_layout()
    figure.savefig(file)
    pyplot.close(figure)


def mebibytes(size: float) -> float:
    return size / MiB
