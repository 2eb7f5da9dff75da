"""Readings of the metrics, from a metrics page or from a state."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import accumulate
from typing import Final, NamedTuple

from gateway.observability.metrics.exposition import request_durations
from gateway.observability.metrics.families import FAMILIES
from gateway.observability.metrics.request_counters import Labels
from gateway.observability.metrics.snapshot import Series, State
from gateway.samples import BOUNDS, BUCKETS, Histogram

# The cumulative number of observations by upper bound in seconds.
Cumulated = Mapping[float, float]

_LINE: Final = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)(?: \d+)?")
_LABEL: Final = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)",?')
_ESCAPE: Final = re.compile(r"\\(.)")
_BOUNDS: Final = (*BOUNDS, float("inf"))
_BUCKET: Final = "_bucket"
_REQUESTS: Final = "gateway_requests_total"


class Reading(NamedTuple):
    """`requests` counts finished requests; `values` has the series of other families. `histograms` computes the
    histograms without labels and those of the given routes, because computing all routes takes long."""

    requests: Mapping[Labels, float]
    values: Mapping[Series, float]
    histograms: Callable[[Iterable[str]], Mapping[Series, Cumulated]]


def reading_of(state: State) -> Reading:
    """The reading of a state. Its cost grows with the number of series, so run it in a thread."""
    numbers = {series: value for series, value in state.samples.items() if not isinstance(value, list)}
    plain = {series: cumulated(value) for series, value in state.samples.items() if isinstance(value, list)}

    def histograms(routes: Iterable[str]) -> Mapping[Series, Cumulated]:
        found = request_durations(state.requests, frozenset(routes))
        return plain | {series: cumulated(counts) for series, counts in found.items()}

    return Reading(
        {labels: sum(counts[:BUCKETS]) for labels, counts in state.requests.items()},
        numbers,
        histograms,
    )


def reading_of_page(page: str) -> Reading:
    """The reading of a page in Prometheus' text format 0.0.4. Raises ValueError for any other text."""
    requests: dict[Labels, float] = {}
    values: dict[Series, float] = {}
    histograms: dict[Series, dict[float, float]] = {}
    for name, labels, value in _lines(page):
        family = FAMILIES.get(name.removesuffix(_BUCKET))
        if family is None:  # sums and counts of histograms, and families of other versions
            continue
        own = tuple(labels.get(label, "") for label in family.labels)
        if "le" in labels:
            histograms.setdefault((family.name, own), {})[float(labels["le"])] = value
        elif name == _REQUESTS:
            requests[Labels(*own)] = value
        else:
            values[name, own] = value
    return Reading(requests, values, lambda _: histograms)


def _lines(page: str) -> Iterator[tuple[str, Mapping[str, str], float]]:
    for line in page.splitlines():
        if line and not line.startswith("#"):
            match = _LINE.fullmatch(line)
            if match is None:
                raise ValueError(f"not a line of metrics: {line[:80]!r}")
            name, labels, value = match.groups()
            yield name, _labels(labels or ""), float(value)


def _labels(text: str) -> Mapping[str, str]:
    return {name: _ESCAPE.sub(_unescaped, value) for name, value in _LABEL.findall(text)}


def _unescaped(found: re.Match[str]) -> str:
    return "\n" if found[1] == "n" else found[1]


def cumulated(counts: Histogram) -> Cumulated:
    """The cumulative counts of a histogram by upper bound."""
    return dict(zip(_BOUNDS, accumulate(counts[:BUCKETS]), strict=True))
