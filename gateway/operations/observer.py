"""What is known of each request once it is over: a line in the access log, and numbers for /_gateway/metrics.

`completed` is on the way of every request, so it does the least: one look-up, two additions, one string put into a
list. Whatever can be made before (text of method, route and status) or after (writing, sums) is. Lines leave in
blocks, with each tick or when enough have come together.
"""

import os
import sys
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple, Protocol

from gateway.operations.access_log import (
    Texts,
    json_host,
    json_method,
    json_opening,
    json_outcome,
    json_roles,
    loggable_path,
    text_line,
    timestamp,
)
from gateway.operations.counters import BOUNDS, CALLER_LEFT, Counters, Counts, Labels
from gateway.operations.escaping import quoted
from gateway.operations.events import Repeats, event
from gateway.operations.log_writer import LogWriter
from gateway.settings.model import ObservabilitySettings

# Lines of one block: about 36 KiB, which fits into a pipe (64 KiB) that is being read.
BLOCK: Final = 128

# Cheaper forms on the hot path: `%.3f` of a float takes 0.3 µs, and `b"?" in path` four times as long as its number.
FRACTIONS: Final = tuple(f".{thousandths:03d}" for thousandths in range(1000))
QUESTION_MARK: Final = ord("?")


class Completed(Protocol):
    """Takes note of a finished request; called on the hot path, positionally. It never raises and never waits.

    `route` is its name, "" when none matched. `path` is the canonical one; of a request that matched no route it may
    be the target as it was sent, from which only the path is logged. `status` 0: the caller left before any answer
    was made, logged and counted as 499. `code` is the refusal's, or "". `user_id` is "" for anonymous callers.
    `client` is the caller's address, `seconds` the time from the head to the end of the answer; `received` and `sent`
    are bytes of body. `host` is canonical, None without one that could be read; `roles` are the caller's own.
    """

    def __call__(
        self,
        route: str,
        method: bytes,
        path: bytes,
        status: int,
        code: str,
        user_id: str,
        request_id: bytes,
        client: str,
        seconds: float,
        received: int,
        sent: int,
        host: bytes | None,
        roles: frozenset[str],
        /,
    ) -> None: ...


class _Series(NamedTuple):
    """What requests of one route, method, status and code share: their texts in the log, and where they are counted
    (None: metrics are off)."""

    method: str
    outcome: str
    counts: Counts | None


class Observer:
    """Access log and counters of one process. Made before the first request, told of every finished one.

    `routes` are the names of all routes, the gateway's own included. `write` takes blocks of log lines; without it
    they go to standard output. `coloured` is for `access_log: text`; None: on a terminal, unless NO_COLOR is set.
    """

    completed: Completed
    """What to call for each finished request: the cheapest way that does what the settings ask."""

    def __init__(
        self,
        settings: ObservabilitySettings,
        routes: Iterable[str],
        write: Callable[[bytes], object] | None = None,
        *,
        coloured: bool | None = None,
    ) -> None:
        self.started_at = time.time()
        self._counters = Counters(routes)
        self.has_metrics = settings.metrics
        self._format = settings.access_log
        self._series: dict[tuple[str, bytes, int, str], _Series] = {}
        self._hosts = Texts(json_host)
        self._roles = Texts(json_roles)
        self._lines: list[str] = []
        self._lost = 0
        self._mentioned = 0
        self._repeats = Repeats()
        self._writer: LogWriter | None = None
        if write is None and self._format != "off":
            self._writer = LogWriter(_standard_output())
        self._write = write if write is not None else self._writer.write if self._writer is not None else _discard
        self._coloured = coloured if coloured is not None else write is None and _has_colours()
        self._renew_time()
        self.completed = self._cheapest_way()

    def _cheapest_way(self) -> Completed:
        if self._format == "json":
            return self._log_json
        if self._format == "text":
            return self._log_text
        return self._count if self.has_metrics else self._ignore

    # ---- the hot path

    def _log_json(
        self,
        route: str,
        method: bytes,
        path: bytes,
        status: int,
        code: str,
        user_id: str,
        request_id: bytes,
        client: str,
        seconds: float,
        received: int,
        sent: int,
        host: bytes | None,
        roles: frozenset[str],
        /,
    ) -> None:
        series = self._series.get((route, method, status, code))
        if series is None:
            series = self._find(route, method, status, code)
        method_text, outcome, counts = series
        if counts is not None:
            counts[bisect_left(BOUNDS, seconds)] += 1
            counts[-1] += seconds
        if not route or QUESTION_MARK in path:
            path = loggable_path(path)
        microseconds = int(seconds * 1e6)
        lines = self._lines
        lines.append(
            f'{self._opening}{quoted(request_id.decode("latin-1"))},"client":{quoted(client)}{self._hosts[host]}'
            f"{method_text}{quoted(path.decode('latin-1'))}{outcome}{quoted(user_id)}{self._roles[roles]}"
            f',"duration_ms":{microseconds // 1000}{FRACTIONS[microseconds % 1000]}'
            f',"received":{received},"sent":{sent}}}\n'
        )
        if len(lines) >= BLOCK:
            self._flush()

    def _count(
        self,
        route: str,
        method: bytes,
        path: bytes,
        status: int,
        code: str,
        user_id: str,
        request_id: bytes,
        client: str,
        seconds: float,
        received: int,
        sent: int,
        host: bytes | None,
        roles: frozenset[str],
        /,
    ) -> None:
        series = self._series.get((route, method, status, code))
        if series is None:
            series = self._find(route, method, status, code)
        counts = series[2]
        if counts is not None:
            counts[bisect_left(BOUNDS, seconds)] += 1
            counts[-1] += seconds

    # ---- the other ways

    def _log_text(
        self,
        route: str,
        method: bytes,
        path: bytes,
        status: int,
        code: str,
        user_id: str,
        request_id: bytes,
        client: str,
        seconds: float,
        received: int,
        sent: int,
        host: bytes | None,
        roles: frozenset[str],
        /,
    ) -> None:
        self._count(
            route, method, path, status, code, user_id, request_id, client, seconds, received, sent, host, roles
        )
        line = text_line(
            time_text=self._time,
            coloured=self._coloured,
            seconds=seconds,
            status=status or CALLER_LEFT,
            method=method.decode("latin-1"),
            client=client,
            path=(path if route and QUESTION_MARK not in path else loggable_path(path)).decode("latin-1"),
            code=code,
            route=route,
            user=user_id,
            received=received,
            sent=sent,
            id=request_id.decode("latin-1"),
        )
        self._lines.append(line)
        if len(self._lines) >= BLOCK:
            self._flush()

    def _ignore(self, *_: object) -> None:
        """Neither log nor metrics."""

    def _find(self, route: str, method: bytes, status: int, code: str) -> _Series:
        """The series of a request that is not at hand yet. Kept only where it cannot be one of endlessly many."""
        counts = self._counters.counts(route, method, status, code) if self.has_metrics else None
        series = _Series(json_method(method), json_outcome(route, status or CALLER_LEFT, code), counts)
        if self._counters.is_declared(route, method, code):
            self._series[route, method, status, code] = series
        return series

    # ---- around it

    def declare(self, routes: Iterable[str]) -> None:
        """Make the names of newly loaded routes known; others are counted together as `other`."""
        self._counters.declare(routes)

    def failed(self, request_id: bytes, reason: str) -> None:
        """Say on standard error why a request came to a bad end. The same reason is said once a minute."""
        before = self._repeats.admit(reason)
        if before is not None:
            event("failed", reason, request_id=request_id.decode("latin-1"), repeated=before or None)

    def tick(self, now: float) -> None:
        """Write what has come together, and renew the time of the lines to come. `now` is the loop's time."""
        self._flush()
        self._renew_time()
        self._mention_losses()

    def close(self) -> None:
        """Write the rest, at most for two seconds."""
        self._flush()
        if self._writer is not None:
            self._writer.close()
        self._mention_losses()

    @property
    def dropped(self) -> int:
        """Log lines that were lost because nobody took them."""
        return self._lost + (self._writer.dropped if self._writer is not None else 0)

    def snapshot(self) -> Iterator[tuple[Labels, Counts]]:
        """What was counted until now, as copies; may be used on another thread."""
        return self._counters.snapshot()

    def _renew_time(self) -> None:
        self._time = timestamp(time.time())
        self._opening = json_opening(self._time)

    def _flush(self) -> None:
        if not self._lines:
            return
        count, block = len(self._lines), "".join(self._lines)
        self._lines.clear()
        try:
            self._write(block.encode("ascii"))
        except Exception:  # whatever it is: a request must not fail for its log line
            self._lost += count

    def _mention_losses(self) -> None:
        if self.dropped > self._mentioned and self._repeats.admit("dropped") is not None:
            event("access-log", "lines were dropped, nobody takes them", lines=self.dropped - self._mentioned)
            self._mentioned = self.dropped


def _standard_output() -> int | None:
    """The descriptor of standard output, or None if the process was started without one. `sys.stdout` may be
    something else by now (a test's, an embedder's); the log goes to the process's own."""
    return sys.__stdout__.fileno() if sys.__stdout__ is not None else None


def _has_colours() -> bool:
    descriptor = _standard_output()
    return descriptor is not None and os.isatty(descriptor) and not os.environ.get("NO_COLOR")


def _discard(_: bytes) -> None:
    """There is no access log."""
