"""The counters in Prometheus' text format 0.0.4, made when somebody scrapes.

Written by hand: the client library's counters cost 4 µs for each request, and its text output needs them.
"""

import os
import platform
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import accumulate
from pathlib import Path
from typing import Final

import gateway
from gateway.operations.counters import BOUNDS, BUCKETS, Counts, Labels
from gateway.operations.observer import Observer

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_NAME: Final = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*").fullmatch
_LABEL_ESCAPES: Final = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n"})
_LE: Final = (*map(str, BOUNDS), "+Inf")


def render(observer: Observer, extra: Callable[[], Mapping[str, float]]) -> bytes:
    """Everything there is to scrape. `extra` answers further values by their full metric names; those that end in
    `_total` are counters, all others gauges. Safe to call on another thread if `extra` is.

    Raises ValueError for a name in `extra` that Prometheus would not take.
    """
    lines = [*_requests(observer.snapshot()), *_own(observer)]
    for name, value in sorted(extra().items()):
        lines += _single(name, value, "")
    return ("\n".join(lines) + "\n").encode()


def _requests(snapshot: Iterable[tuple[Labels, Counts]]) -> Iterator[str]:
    by_route: dict[str, Counts] = {}
    yield "# HELP gateway_requests_total Finished requests. Status 499: the caller left before an answer was made."
    yield "# TYPE gateway_requests_total counter"
    for labels, counts in sorted(snapshot):
        yield f"gateway_requests_total{_labels(**labels._asdict())} {sum(counts[:BUCKETS])}"
        route = by_route.setdefault(labels.route, [0] * BUCKETS + [0.0])
        route[:] = map(sum, zip(route, counts, strict=True))
    yield "# HELP gateway_request_duration_seconds From the request head to the end of the answer."
    yield "# TYPE gateway_request_duration_seconds histogram"
    for name, counts in by_route.items():
        yield from _histogram(name, counts)


def _histogram(route: str, counts: Counts) -> Iterator[str]:
    cumulated = list(accumulate(counts[:BUCKETS]))
    for bound, count in zip(_LE, cumulated, strict=True):
        yield f"gateway_request_duration_seconds_bucket{_labels(route=route, le=bound)} {count}"
    yield f"gateway_request_duration_seconds_sum{_labels(route=route)} {counts[-1]!r}"
    yield f"gateway_request_duration_seconds_count{_labels(route=route)} {cumulated[-1]}"


def _own(observer: Observer) -> Iterator[str]:
    version = _labels(version=gateway.__version__, python=platform.python_version())
    yield from _single("gateway_build_info", 1, "The version that runs.", version)
    yield from _single("gateway_access_log_dropped_total", observer.dropped, "Log lines that nobody took.")
    yield from _single("process_start_time_seconds", observer.started_at, "When the process started, since the epoch.")
    yield from _single("process_cpu_seconds_total", time.process_time(), "CPU time used, user and system.")
    memory = resident_memory()
    if memory is not None:
        yield from _single("process_resident_memory_bytes", memory, "Memory in use.")


def resident_memory(statm: Path = Path("/proc/self/statm")) -> int | None:
    """Bytes of memory that the process holds; None where the system does not say."""
    try:
        pages = int(statm.read_text("ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def _single(name: str, value: float, about: str, labels: str = "") -> Iterator[str]:
    if _NAME(name) is None:
        raise ValueError(f"not a metric name: {name!r}")
    if about:
        yield f"# HELP {name} {about}"
    yield f"# TYPE {name} {'counter' if name.endswith('_total') else 'gauge'}"
    yield f"{name}{labels} {value!r}"


def _labels(**labels: object) -> str:
    return "{" + ",".join(f'{name}="{str(value).translate(_LABEL_ESCAPES)}"' for name, value in labels.items()) + "}"
