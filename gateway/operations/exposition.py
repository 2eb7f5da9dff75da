"""A state as a page in Prometheus' text format 0.0.4.

Written by hand: the client library's counters cost 4 µs for each request, and its text output needs them.
"""

from collections.abc import Iterator, Mapping
from itertools import accumulate
from typing import Final

from gateway.counting import BOUNDS, BUCKETS, Histogram
from gateway.operations.counters import OWN, TOTAL, UPSTREAM, Counts, Labels
from gateway.operations.families import FAMILIES, Family
from gateway.operations.state import Series, State, added

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_LABEL_ESCAPES: Final = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n"})
_LE: Final = (*map(str, BOUNDS), "+Inf")
# Which part of a request's counts is which family.
_HISTOGRAMS: Final = (
    ("gateway_request_duration_seconds", TOTAL),
    ("gateway_own_duration_seconds", OWN),
    ("gateway_upstream_duration_seconds", UPSTREAM),
)
_SWITCHED: Final = "1xx"  # WebSockets last as long as their callers like
_LOGIN: Final = "accounts.login"


def page_of(state: State) -> bytes:
    """Everything there is to scrape."""
    by_family: dict[str, dict[tuple[str, ...], float | Histogram]] = {}
    for (name, labels), value in [*state.samples.items(), *_of_requests(state.requests)]:
        by_family.setdefault(name, {})[labels] = value
    lines = [line for family in FAMILIES.values() for line in _family(family, by_family.get(family.name, {}))]
    return ("\n".join(lines) + "\n").encode()


def _of_requests(requests: Mapping[Labels, Counts]) -> Iterator[tuple[Series, float | Histogram]]:
    """The families that are made of what was counted of requests."""
    durations: dict[Series, Histogram] = {}
    logins: dict[str, float] = {}
    for labels, counts in requests.items():
        number = sum(counts[:BUCKETS])
        yield ("gateway_requests_total", tuple(labels)), number
        if labels.route == _LOGIN and labels.method == "POST":
            outcome = labels.code or "success"
            logins[outcome] = logins.get(outcome, 0) + number
        for name, at in _HISTOGRAMS if labels.status != _SWITCHED else ():
            found = counts[at : at + BUCKETS + 1]
            before = durations.get((name, (labels.route,)))
            durations[name, (labels.route,)] = found if before is None else added(before, found)
    yield from durations.items()
    for outcome, number in logins.items():
        yield ("gateway_logins_total", (outcome,)), number


def _family(family: Family, values: Mapping[tuple[str, ...], float | Histogram]) -> Iterator[str]:
    if not values:
        return
    yield f"# HELP {family.name} {family.about}"
    yield f"# TYPE {family.name} {family.kind}"
    for labels, value in sorted(values.items(), key=lambda item: item[0]):
        said = dict(zip(family.labels, labels, strict=True))
        if isinstance(value, list):
            yield from _histogram(family.name, said, value)
        else:
            yield f"{family.name}{_labels(said)} {value!r}"


def _histogram(name: str, labels: Mapping[str, str], counts: Histogram) -> Iterator[str]:
    cumulated = list(accumulate(counts[:BUCKETS]))
    for bound, count in zip(_LE, cumulated, strict=True):
        yield f"{name}_bucket{_labels({**labels, 'le': bound})} {count}"
    yield f"{name}_sum{_labels(labels)} {counts[-1]!r}"
    yield f"{name}_count{_labels(labels)} {cumulated[-1]}"


def _labels(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{value.translate(_LABEL_ESCAPES)}"' for name, value in labels.items()) + "}"
