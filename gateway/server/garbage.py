"""Schedule garbage collection so that no client waits for it and memory stays bounded.

Reference counting frees requests, however they end. The remaining garbage is cycles, created by libraries or defects. A
search of all objects takes a second with 20,000 routes. Therefore:

- The objects of the start are frozen (`gc.freeze`), which excludes them from every later search. They live as long as
  the process, or until a reload.
- The interpreter collects new objects in small steps, and the next tick collects the rest of them.
- A tick after a second without requests searches all objects since the start, at most once a minute, or at once if the
  process has grown.
- Under steady load a tick searches them if the process has grown much. The measure is bytes, not objects: a few
  thousand objects can occupy a gigabyte.
- A reload freezes the new configuration at once. A search of all objects for remains of the old one waits until no
  request has arrived for twenty times its duration.
"""

import ctypes
import gc
import time
from collections.abc import Callable
from typing import Any, Final

from gateway.observability.metrics.metrics import resident_or_peak

STEP: Final = 2_000  # New objects per step: half a millisecond.
_STEPS: Final = 4  # Steps after which the survivors are collected if no tick intervenes.
_NEVER: Final = 1 << 30
PAUSE: Final = 60.0  # Seconds between two full collections in quiet times.
QUIET: Final = 1.0  # Seconds without a request before a full collection; short pauses between requests do not count.
LITTLE: Final = 4 * 1024 * 1024  # Bytes of growth that trigger a collection: of new objects, in quiet times a full one.
MUCH: Final = 16 * 1024 * 1024  # Bytes of growth that trigger a full collection under load.
_SHARE: Final = 0.25  # Alternatively this share of the size, if larger.
_REST: Final = 20  # The minimum interval between two searches, as a multiple of their duration.


class Collector:
    """Runs on each tick. `is_serving` tells whether a request is in progress; `begun` returns a counter that grows by
    one per request and per call; `size` returns the memory of the process in bytes."""

    def __init__(
        self, is_serving: Callable[[], bool], begun: Callable[[], int], size: Callable[[], int] | None = None
    ) -> None:
        self._is_serving = is_serving
        self._begun = begun
        self._size = resident_or_peak if size is None else size
        self._last = 0
        self._quiet_since = 0.0
        self._has_old = False  # objects have outlived a tick since the last search of all
        self._is_reloaded = False
        self._duration = 0.0  # of the last search of all objects, in seconds
        self._due = 0.0
        self._rests_until = 0.0
        self._size_searched = 0  # after the last collection
        self._size_settled = 0  # after the last full collection

    def collect_and_freeze(self, now: float) -> None:
        """Search all objects that are not frozen, and freeze the survivors."""
        started = time.perf_counter()
        gc.collect()
        gc.freeze()
        gc.set_threshold(STEP, _STEPS, _NEVER)
        gc.enable()  # `gateway serve` starts without collection
        self._is_reloaded = False
        self._duration = self._settle(now, started)

    def _collect_since_start(self, now: float) -> None:
        started = time.perf_counter()
        gc.collect()
        self._settle(now, started)

    def _settle(self, now: float, started: float) -> float:
        """Return free memory to the system, and schedule the next search. Returns the duration of this one."""
        return_free_memory()
        self._size_searched = self._size_settled = self._size()
        self._has_old = False
        self._due = now + PAUSE
        duration = time.perf_counter() - started
        self._rests_until = now + _REST * duration
        return duration

    def note_reload(self) -> None:
        """Freeze the new configuration, and search for remains of the old one when no client waits."""
        gc.freeze()
        self._is_reloaded = True

    def tick(self, now: float) -> None:
        """Collect new objects; search all if no client waits, or if the process has grown much."""
        begun = self._begun()
        if begun != self._last + 1:
            self._quiet_since = now
        self._last = begun
        size = self._size()
        self._size_searched = min(self._size_searched, size)
        if gc.get_count()[1] or size > self._size_searched + LITTLE:
            size = self._collect_step()
        quiet = 0.0 if self._is_serving() else now - self._quiet_since
        if self._is_reloaded and quiet >= max(QUIET, _REST * self._duration):
            gc.unfreeze()  # the objects of the old configuration are among the frozen ones
            self.collect_and_freeze(now)
        elif self._should_search(now, size, is_quiet=quiet >= QUIET):
            self._collect_since_start(now)

    def _collect_step(self) -> int:
        """Collect new objects. Returns the size of the process afterwards."""
        gc.collect(1)
        self._has_old = True
        self._size_searched = self._size()
        return self._size_searched

    def _should_search(self, now: float, size: int, *, is_quiet: bool) -> bool:
        grown = size - self._size_settled
        if now < self._rests_until:
            return False
        if is_quiet:
            return grown > LITTLE or (self._has_old and now >= self._due)
        return grown > max(MUCH, _SHARE * self._size_settled)


def return_free_memory() -> None:
    """Return free pages of glibc's heap to the system. The heap shrinks only at its end by itself."""
    trim: Any = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
