"""When the interpreter looks for garbage that only it can find, so that no caller waits for it.

A full search with 100,000 cached users takes 40 ms and more. Nearly everything here is freed by its last reference;
what is left are cycles, few of them. So:

- New objects are looked through in small steps, ten thousand at a time: two milliseconds.
- What has survived that is old, and is put out of reach at the next tick (`gc.freeze` joins two lists, whatever is in
  them). No automatic search ever looks at it again.
- Cycles that became garbage when they were old are found by a full search now and then, while nobody has asked for
  anything for a while; or anyway once the process has become twice as large, because memory must not grow for ever.
"""

import gc
import sys
from collections.abc import Callable
from typing import Final

STEP: Final = 10_000  # new objects
_NEVER: Final = 1 << 30
PAUSE: Final = 60.0  # seconds between two full searches at least
QUIET: Final = 1.0  # seconds without a request, before one: between two requests there is always a moment
GROWTH: Final = 2_000_000  # blocks of memory, some 64 bytes each; 100,000 users and their tokens are a million


class Collector:
    """Told of each tick. `is_serving` says whether a request is being served at this moment; `begun` gives a number
    that has grown by one, and by one for each request, since it was asked last."""

    def __init__(self, is_serving: Callable[[], bool], begun: Callable[[], int]) -> None:
        self._is_serving = is_serving
        self._begun = begun
        self._last = 0
        self._quiet_since = 0.0
        self._has_old = False  # something was put out of reach since the last full search
        self._blocks = 0
        self._due = 0.0

    def settle(self, now: float) -> None:
        """Search everything now, and put out of reach what is alive."""
        gc.unfreeze()
        gc.collect()
        gc.freeze()
        gc.set_threshold(STEP, _NEVER, _NEVER)
        self._blocks = sys.getallocatedblocks()
        self._has_old = False
        self._due = now + PAUSE

    def much_is_old(self) -> None:
        """What was used until now is garbage, as after a reload: search everything as soon as nobody is served."""
        self._has_old = True
        self._due = 0.0

    def tick(self, now: float) -> None:
        """Put out of reach what has survived a step, and search everything when it disturbs nobody."""
        begun = self._begun()
        if begun != self._last + 1:
            self._quiet_since = now
        self._last = begun
        if gc.get_count()[1]:
            gc.freeze()  # which sets the counts to nothing
            self._has_old = True
        if self._has_old and now >= self._due and (self._is_idle(now) or self._has_grown()):
            self.settle(now)

    def _is_idle(self, now: float) -> bool:
        return now - self._quiet_since >= QUIET and not self._is_serving()

    def _has_grown(self) -> bool:
        return sys.getallocatedblocks() > self._blocks + max(self._blocks, GROWTH)
