"""Records each finished request: a line in the access log, and counts for /_gateway/metrics.

`completed` is on the hot path and does the minimum: one lookup, a few additions, and one string appended to a list.
Texts of method, route and status are cached; writing and sums happen later. Lines are written in blocks, at each tick
or when a block is full.
"""

import os
import sys
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Final, NamedTuple, Protocol

from gateway.errors import Caller, RefusedCredential
from gateway.gate.admission import Admission, RequestHead
from gateway.observability.access_log import (
    NO_ROLES,
    Texts,
    json_client,
    json_credential,
    json_host,
    json_method,
    json_opening,
    json_outcome,
    json_roles,
    json_trace,
    loggable_path,
    text_line,
    timestamp,
)
from gateway.observability.escaping import quoted, without_tokens
from gateway.observability.events import RateLimitedLog, event
from gateway.observability.log_writer import LogWriter
from gateway.observability.metrics.request_counters import CALLER_LEFT, OWN, SIZE, UPSTREAM, Counters, Counts, Labels
from gateway.samples import BOUNDS, BUCKETS
from gateway.settings.model import ObservabilitySettings


class CompletedRequest(Protocol):
    """A finished request, as reported by the native server or the ASGI app.

    `admission` is None if the request was refused before admission; `route` is then the route that refused it, or "".
    `status` 0: the client disconnected before a response; logged and counted as 499. `code` is that of the refusal, or
    "". Times are those of `time.monotonic`: `started` when the head was read, `forwarded_at` when the request was last
    sent to an upstream, and `answered_at` when the response head arrived; the last two are 0.0 if that did not happen.
    `received` and `sent` are body bytes. `refused` is the refused caller, if known, and
    `refused_credential` its credential.
    """

    @property
    def request(self) -> RequestHead: ...
    @property
    def admission(self) -> Admission | None: ...
    @property
    def refused(self) -> Caller | None: ...

    @property
    def refused_credential(self) -> RefusedCredential | None: ...
    @property
    def route(self) -> str: ...
    @property
    def status(self) -> int: ...
    @property
    def code(self) -> str: ...
    @property
    def started(self) -> float: ...
    @property
    def forwarded_at(self) -> float: ...
    @property
    def answered_at(self) -> float: ...
    @property
    def received(self) -> int: ...
    @property
    def sent(self) -> int: ...


OnComplete = Callable[[CompletedRequest], None]
"""Records a finished request. Called on the hot path; never raises and never blocks."""


# Lines in a block: about 36 KiB, which fits into a pipe (64 KiB) with an active reader.
BLOCK: Final = 128

# Precomputed for the hot path, because formatting a float with `%.3f` takes 0.3 µs.
FRACTIONS: Final = tuple(f".{thousandths:03d}" for thousandths in range(1000))

_MOST_SERIES: Final = 16_384  # about 400 bytes each

# The offsets of the sums of the three histograms.
_SUM: Final = BUCKETS
_OWN_SUM: Final = OWN + BUCKETS
_UPSTREAM_SUM: Final = SIZE - 1


class _Series(NamedTuple):
    """The cached log texts and counts of requests with the same route, method, status and code. `counts` is None
    without metrics."""

    method: str
    outcome: str
    counts: Counts | None


class Observer:
    """The access log and counters of one process.

    `routes` are the names of all routes, including built-in ones. `write` receives blocks of log lines; by default they
    go to standard output. `coloured` applies to `access_log: text`; None: on a terminal, unless NO_COLOR is set.
    `clock` is the clock of the requests' times.
    """

    completed: OnComplete
    """The function to call for each finished request: the cheapest one for the settings."""

    def __init__(
        self,
        settings: ObservabilitySettings,
        routes: Iterable[str],
        write: Callable[[bytes], object] | None = None,
        *,
        coloured: bool | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.started_at = time.time()
        self._clock = clock
        self._counters = Counters(routes)
        self.has_metrics = settings.metrics
        self._format = settings.access_log
        self._series: dict[tuple[str, bytes, int, str], _Series] = {}
        self._clients = Texts(json_client)
        self._hosts = Texts(json_host)
        self._roles = Texts(json_roles)
        # Renewed at each tick, because the age of a sign-in grows.
        self._credentials = Texts(partial(json_credential, now=time.time()))
        self._lines: list[str] = []
        self._lost: Counter[str] = Counter()
        self._reported_losses: Counter[str] = Counter()
        self._repeats = RateLimitedLog()
        self._writer: LogWriter | None = None
        if write is None and (self._format != "off" or settings.decision_log is not None):
            self._writer = LogWriter(_standard_output())
        self._write = write if write is not None else self._writer.write if self._writer is not None else _discard
        self._coloured = coloured if coloured is not None else write is None and _has_colours()
        self._renew_time()
        self.completed = self._cheapest_way()

    def _cheapest_way(self) -> OnComplete:
        if self._format == "json":
            return self._log_json
        if self._format == "text":
            return self._log_text
        return self._count if self.has_metrics else _ignore

    # ---- the hot path

    def _log_json(self, finished: CompletedRequest) -> None:
        request, admission, status, code = finished.request, finished.admission, finished.status, finished.code
        route = finished.route if admission is None else admission.route.name
        series = self._series.get((route, request.method, status, code))
        if series is None:
            series = self._find(route, request.method, status, code)
        method_text, outcome, counts = series
        now, started, forwarded_at = self._clock(), finished.started, finished.forwarded_at
        total = now - started
        microseconds = int(total * 1e6)
        if forwarded_at:
            waited = (finished.answered_at or now) - forwarded_at
            waited_microseconds = int(waited * 1e6)
            upstream = f"{waited_microseconds // 1000}{FRACTIONS[waited_microseconds % 1000]}"
            if counts is not None:
                _add(counts, total, forwarded_at - started, waited)
        else:
            upstream = "null"
            if counts is not None:
                _add(counts, total, total, None)
        if admission is None:
            path, caller, held = loggable_path(request.target), finished.refused, finished.refused_credential
        else:
            path, caller, held = admission.target.path, admission.principal, admission.claims
        credential = "" if held is None else self._credentials[held.kind, held.acr, held.auth_time]
        user, roles = ("", NO_ROLES) if caller is None else (caller.id, caller.own_roles)
        trace = "" if request.trace is None else json_trace(request.trace.trace_id)
        # Generated ids are safe. Those of clients are escaped.
        request_id = request.request_id.decode("latin-1")
        request_id = f'"{request_id}"' if request.fields.request_id is None else quoted(without_tokens(request_id))
        lines = self._lines
        lines.append(
            f"{self._opening}{request_id}"
            f"{self._clients[request.client]}"
            f"{self._hosts[request.fields.canonical_host]}{method_text}{quoted(without_tokens(path.decode('latin-1')))}"
            f"{outcome}{quoted(user)}{self._roles[roles]}{credential}"
            f',"duration_ms":{microseconds // 1000}{FRACTIONS[microseconds % 1000]},"upstream_ms":{upstream}'
            f',"received":{finished.received},"sent":{finished.sent}{trace}}}\n'
        )
        if len(lines) >= BLOCK:
            self._flush()

    def _count(self, finished: CompletedRequest) -> None:
        request, admission, status, code = finished.request, finished.admission, finished.status, finished.code
        route = finished.route if admission is None else admission.route.name
        series = self._series.get((route, request.method, status, code))
        if series is None:
            series = self._find(route, request.method, status, code)
        counts = series[2]
        if counts is None:
            return
        now, started, forwarded_at = self._clock(), finished.started, finished.forwarded_at
        if forwarded_at:
            _add(counts, now - started, forwarded_at - started, (finished.answered_at or now) - forwarded_at)
        else:
            _add(counts, now - started, now - started, None)

    # ---- other formats

    def _log_text(self, finished: CompletedRequest) -> None:
        self._count(finished)
        request, admission = finished.request, finished.admission
        caller = finished.refused if admission is None else admission.principal
        path: bytes = loggable_path(request.target) if admission is None else admission.target.path
        line = text_line(
            time_text=self._time,
            coloured=self._coloured,
            seconds=self._clock() - finished.started,
            status=finished.status or CALLER_LEFT,
            method=request.method.decode("latin-1"),
            client=request.client,
            path=without_tokens(path.decode("latin-1")),
            code=finished.code,
            route=finished.route if admission is None else admission.route.name,
            user="" if caller is None else caller.id,
            received=finished.received,
            sent=finished.sent,
            id=without_tokens(request.request_id.decode("latin-1")),
            trace="" if request.trace is None else request.trace.trace_id,
        )
        self._lines.append(line)
        if len(self._lines) >= BLOCK:
            self._flush()

    def _find(self, route: str, method: bytes, status: int, code: str) -> _Series:
        """Create the series of a request. It is cached only if its labels are finitely many."""
        counts = self._counters.counts(route, method, status, code) if self.has_metrics else None
        series = _Series(json_method(method), json_outcome(route, status or CALLER_LEFT, code), counts)
        if self._counters.is_declared(route, method, code):
            if len(self._series) >= _MOST_SERIES:
                self._series.clear()  # upstreams choose the statuses, so the number must be bounded
            self._series[route, method, status, code] = series
        return series

    # ---- lifecycle

    def declare(self, routes: Iterable[str]) -> None:
        """Register the names of newly loaded routes. Other routes are counted as `other`."""
        self._counters.declare(routes)

    def say(self, members: str) -> None:
        """Write a JSON line of another log among those of the access log. `members` excludes the time."""
        self._lines.append(f'{{"time":"{self._time}",{members}}}\n')
        if len(self._lines) >= BLOCK:
            self._flush()

    def failed(self, request_id: bytes, reason: str) -> None:
        """Report on standard error why a request failed, at most once a minute for each reason."""
        before = self._repeats.admit(reason)
        if before is not None:
            event("failed", reason, request_id=request_id.decode("latin-1"), repeated=before or None)

    def tick(self, now: float) -> None:
        """Write the buffered lines, and update the time for the next ones. `now` is the loop's time."""
        self._flush()
        self._renew_time()
        self._report_losses()

    def close(self) -> None:
        """Write the remaining lines within two seconds."""
        self._flush()
        if self._writer is not None:
            self._writer.close()
        self._report_losses()

    @property
    def dropped(self) -> int:
        """The number of lost log lines."""
        return self._losses().total()

    def _losses(self) -> Counter[str]:
        """The number of lost log lines by reason."""
        return self._lost if self._writer is None else self._lost + self._writer.losses

    def snapshot(self) -> Iterator[tuple[Labels, Counts]]:
        """Copies of all counts. Can be called from another thread."""
        return self._counters.snapshot()

    def _renew_time(self) -> None:
        now = time.time()
        self._time = timestamp(now)
        if self._credentials:
            self._credentials = Texts(partial(json_credential, now=now))
        self._opening = json_opening(self._time)

    def _flush(self) -> None:
        if not self._lines:
            return
        count, block = len(self._lines), "".join(self._lines)
        self._lines.clear()
        try:
            self._write(block.encode("ascii"))
        except Exception as error:  # any, because a request must not fail for its log line
            self._lost[type(error).__name__] += count

    def _report_losses(self) -> None:
        for reason, lines in self._losses().items():
            new = lines - self._reported_losses[reason]
            if new and self._repeats.admit(("dropped", reason)) is not None:
                written = event("access-log", f"lines were dropped: {reason}", lines=new)
                # Events can go to the same full disk. A lost one is repeated a minute later.
                self._reported_losses[reason] = lines if written else lines - new


def _add(counts: Counts, total: float, own: float, waited: float | None) -> None:
    counts[bisect_left(BOUNDS, total)] += 1
    counts[_SUM] += total
    counts[OWN + bisect_left(BOUNDS, own)] += 1
    counts[_OWN_SUM] += own
    if waited is not None:
        counts[UPSTREAM + bisect_left(BOUNDS, waited)] += 1
        counts[_UPSTREAM_SUM] += waited


def _ignore(_: CompletedRequest) -> None:
    """Used without log and metrics."""


def _standard_output() -> int | None:
    """The descriptor of the process's standard output, or None without one. `sys.stdout` can be replaced by tests or
    embedding applications, so `sys.__stdout__` is used."""
    return sys.__stdout__.fileno() if sys.__stdout__ is not None else None


def _has_colours() -> bool:
    descriptor = _standard_output()
    return descriptor is not None and os.isatty(descriptor) and not os.environ.get("NO_COLOR")


def _discard(_: bytes) -> None:
    """Used without an access log."""
