"""Render a state in Prometheus' text format 0.0.4.

The client library is not used: its counters cost 4 µs per request, and its text output requires them.
"""

from collections.abc import Container, Iterator, Mapping
from itertools import accumulate, chain, islice
from typing import Final

from gateway.observability.metrics.families import FAMILIES, Family
from gateway.observability.metrics.request_counters import OWN, TOTAL, UPSTREAM, Counts, Labels
from gateway.observability.metrics.snapshot import Series, State, added
from gateway.samples import BOUNDS, BUCKETS, Histogram

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_BLOCK: Final = 256  # lines
_LABEL_ESCAPES: Final = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n"})
_LE: Final = (*map(str, BOUNDS), "+Inf")
# The offsets of the families in the counts of a request.
_HISTOGRAMS: Final = (
    ("gateway_request_duration_seconds", TOTAL),
    ("gateway_own_duration_seconds", OWN),
    ("gateway_upstream_duration_seconds", UPSTREAM),
)
_SWITCHED: Final = "1xx"  # excluded, because WebSockets stay open indefinitely
_LOGIN: Final = "accounts.login"


def page_of(state: State) -> bytes:
    """The page with all metrics."""
    by_family: dict[str, dict[tuple[str, ...], float | Histogram]] = {}
    for (name, labels), value in [*state.samples.items(), *_of_requests(state.requests)]:
        by_family.setdefault(name, {})[labels] = value
    lines = chain.from_iterable(_family(family, by_family.get(family.name, {})) for family in FAMILIES.values())
    return b"".join(_blocks(lines)) or b"\n"


def _blocks(lines: Iterator[str]) -> Iterator[bytes]:
    """The page in pieces. Joining a string blocks all other threads, and a page can have a million lines."""
    while block := list(islice(lines, _BLOCK)):
        yield ("\n".join(block) + "\n").encode()


def _of_requests(requests: Mapping[Labels, Counts]) -> Iterator[tuple[Series, float | Histogram]]:
    """The families derived from the counts of requests."""
    logins: dict[str, float] = {}
    forged: dict[str, float] = {}
    for labels, counts in requests.items():
        number = sum(counts[:BUCKETS])
        yield ("gateway_requests_total", tuple(labels)), number
        if labels.route == _LOGIN and labels.method == "POST":
            outcome = labels.code or "success"
            logins[outcome] = logins.get(outcome, 0) + number
        if labels.code == "cross_site":
            forged[labels.route] = forged.get(labels.route, 0) + number
    yield from request_durations(requests).items()
    for outcome, number in logins.items():
        yield ("gateway_logins_total", (outcome,)), number
    for route, number in forged.items():
        yield ("gateway_cross_site_refused_total", (route,)), number


def request_durations(
    requests: Mapping[Labels, Counts], routes: Container[str] | None = None
) -> dict[Series, Histogram]:
    """The durations of requests, for some routes or all."""
    durations: dict[Series, Histogram] = {}
    for labels, counts in requests.items():
        if labels.status == _SWITCHED or (routes is not None and labels.route not in routes):
            continue
        for name, at in _HISTOGRAMS:
            found = counts[at : at + BUCKETS + 1]
            before = durations.get((name, (labels.route,)))
            durations[name, (labels.route,)] = found if before is None else added(before, found)
    return durations


def _family(family: Family, values: Mapping[tuple[str, ...], float | Histogram]) -> Iterator[str]:
    if not values:
        return
    yield f"# HELP {family.name} {family.about}"
    yield f"# TYPE {family.name} {family.kind}"
    for labels, value in values.items():
        pairs = dict(zip(family.labels, labels, strict=True))
        if isinstance(value, list):
            yield from _histogram(family.name, pairs, value)
        else:
            yield f"{family.name}{_labels(pairs)} {value!r}"


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
