"""When the interpreter searches for garbage that only it can find: no client waits for it, and memory stays bounded.

Reference counts free a request, however it ends. The rest are cycles, made by libraries or by a defect. A search of all
objects takes 40 ms and more with 100,000 cached users. So:

- The interpreter searches new objects in small steps. The next tick searches the survivors again and freezes them
  (`gc.freeze`): no later step reaches them.
- A tick after a second without a request searches all objects, at most once a minute, or at once if the process has
  grown.
- Under steady load a tick searches all objects if the process has grown much. Bytes count, not objects: a few thousand
  objects can hold a gigabyte.
"""

import ctypes
import gc
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

STEP: Final = 2_000  # new objects: half a millisecond
_STEPS: Final = 4  # after which their survivors are searched, if no tick has come before
_NEVER: Final = 1 << 30
PAUSE: Final = 60.0  # seconds between two searches of all objects in quiet times
QUIET: Final = 1.0  # seconds without a request before one: between two requests there is always a moment
LITTLE: Final = 4 * 1024 * 1024  # bytes of growth after which new objects, or in quiet times all objects, are searched
MUCH: Final = 16 * 1024 * 1024  # bytes of growth after which all objects are searched under load
_SHARE: Final = 0.25  # or this share of the size, if it is more
_REST: Final = 20  # so many times its duration pass between two searches of all objects


class Collector:
    """Called at each tick. `is_serving` says whether a request is being served at this moment; `begun` gives a number
    that has grown by one, and by one for each request, since the last call; `size` gives the bytes of the process."""

    def __init__(
        self, is_serving: Callable[[], bool], begun: Callable[[], int], size: Callable[[], int] | None = None
    ) -> None:
        self._is_serving = is_serving
        self._begun = begun
        self._size = resident_or_peak if size is None else size
        self._last = 0
        self._quiet_since = 0.0
        self._has_old = False  # objects were frozen since the last search of all
        self._due = 0.0
        self._rests_until = 0.0
        self._size_searched = 0  # after the last search
        self._size_settled = 0  # after the last search of all objects

    def settle(self, now: float) -> None:
        """Search all objects, freeze the survivors, and return free memory to the system."""
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

    def much_is_old(self) -> None:
        """A reload has left the old configuration as garbage: search all objects as soon as no request is served."""
        self._has_old = True
        self._due = self._rests_until = 0.0

    def tick(self, now: float) -> None:
        """Search and freeze new objects; search all objects if no client waits, or if the process has grown much."""
        begun = self._begun()
        if begun != self._last + 1:
            self._quiet_since = now
        self._last = begun
        size = self._size()
        self._size_searched = min(self._size_searched, size)
        if any(gc.get_count()[1:]) or size > self._size_searched + LITTLE:
            size = self._search_new()
        if self._should_settle(now, size):
            self.settle(now)

    def _search_new(self) -> int:
        """Search all objects that are not frozen, and freeze the survivors; the size of the process afterwards."""
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


def resident_memory(statm: Path = Path("/proc/self/statm")) -> int | None:
    """Bytes of memory that the process holds; None where the system does not say."""
    try:
        pages = int(statm.read_text("ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def resident_or_peak() -> int:
    """Bytes of memory that the process holds; its peak so far where the system does not say."""
    now = resident_memory()
    if now is not None:
        return now
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def return_free_memory() -> None:
    """Have glibc return free pages to the system. Its heap only shrinks at the end by itself."""
    trim: Any = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
