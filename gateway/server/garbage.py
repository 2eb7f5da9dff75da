"""Schedule garbage collection so that no client waits for it and memory stays bounded.

Reference counting frees requests, however they end. The remaining garbage is cycles, created by libraries or defects. A
full collection takes 40 ms or more with 100,000 cached users. Therefore:

- The interpreter collects new objects in small steps. The next tick collects the survivors and freezes them
  (`gc.freeze`), which excludes them from later steps.
- A tick after a second without requests runs a full collection, at most once a minute, or at once if the process has
  grown.
- Under steady load a tick runs a full collection if the process has grown much. The measure is bytes, not objects: a
  few thousand objects can occupy a gigabyte.
"""

import ctypes
import gc
import time
from collections.abc import Callable
from typing import Any, Final

from gateway.observability.metrics.process import resident_or_peak

STEP: Final = 2_000  # New objects per step: half a millisecond.
_STEPS: Final = 4  # Steps after which the survivors are collected if no tick intervenes.
_NEVER: Final = 1 << 30
PAUSE: Final = 60.0  # Seconds between two full collections in quiet times.
QUIET: Final = 1.0  # Seconds without a request before a full collection; short pauses between requests do not count.
LITTLE: Final = 4 * 1024 * 1024  # Bytes of growth that trigger a collection: of new objects, in quiet times a full one.
MUCH: Final = 16 * 1024 * 1024  # Bytes of growth that trigger a full collection under load.
_SHARE: Final = 0.25  # Alternatively this share of the size, if larger.
_REST: Final = 20  # The minimum interval between two full collections, as a multiple of their duration.


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
        self._has_old = False  # objects were frozen since the last full collection
        self._due = 0.0
        self._rests_until = 0.0
        self._size_searched = 0  # after the last collection
        self._size_settled = 0  # after the last full collection

    def collect_and_freeze(self, now: float) -> None:
        """Run a full collection, freeze the survivors, and return free memory to the system."""
        started = time.perf_counter()
        gc.unfreeze()
        gc.collect()
        gc.freeze()
        gc.set_threshold(STEP, _STEPS, _NEVER)
        return_free_memory()
        self._size_searched = self._size_settled = self._size()
        self._has_old = False
        self._due = now + PAUSE
        self._rests_until = now + _REST * (time.perf_counter() - started)

    def request_full_collection(self) -> None:
        """Request a full collection as soon as no request is in progress, because a reload has left the old
        configuration as garbage."""
        self._has_old = True
        self._due = self._rests_until = 0.0

    def tick(self, now: float) -> None:
        """Collect and freeze new objects; run a full collection if no client waits, or if the process has grown
        much."""
        begun = self._begun()
        if begun != self._last + 1:
            self._quiet_since = now
        self._last = begun
        size = self._size()
        self._size_searched = min(self._size_searched, size)
        if any(gc.get_count()[1:]) or size > self._size_searched + LITTLE:
            size = self._search_new()
        if self._should_settle(now, size):
            self.collect_and_freeze(now)

    def _search_new(self) -> int:
        """Collect all unfrozen objects and freeze the survivors. Returns the size of the process afterwards."""
        gc.collect(1)
        gc.freeze()
        self._has_old = True
        self._size_searched = self._size()
        return self._size_searched

    def _should_settle(self, now: float, size: int) -> bool:
        grown = size - self._size_settled
        if now < self._rests_until:
            return False
        if now - self._quiet_since >= QUIET and not self._is_serving():
            return grown > LITTLE or (self._has_old and now >= self._due)
        return grown > max(MUCH, _SHARE * self._size_settled)


def return_free_memory() -> None:
    """Return free pages of glibc's heap to the system. The heap shrinks only at its end by itself."""
    trim: Any = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
