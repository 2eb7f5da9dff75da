"""When the interpreter looks for garbage that only it can find, so that no caller waits for it.

A full search with 100,000 cached users takes 40 ms and more. Nearly everything here is freed by its last reference;
what is left are cycles, few of them. So:

- New objects are looked through in small steps, ten thousand at a time: two milliseconds.
- What has survived that is old, and is put out of reach at the next tick (`gc.freeze` joins two lists, whatever is in
  them). No automatic search ever looks at it again.
- Cycles that became garbage when they were old are found by a full search now and then, while nobody is being served;
  or anyway once a million objects have grown old, because memory must not grow for ever.
"""

import gc
from collections.abc import Callable
from typing import Final

STEP: Final = 10_000  # new objects
_NEVER: Final = 1 << 30
PAUSE: Final = 60.0  # seconds between two full searches at least
MANY: Final = 100  # steps whose survivors have grown old since the last full search


class Collector:
    """Told of each tick. `is_idle` says whether nobody is being served at this moment; it is asked once in PAUSE."""

    def __init__(self, is_idle: Callable[[], bool]) -> None:
        self._is_idle = is_idle
        self._grown_old = 0  # steps whose survivors were put out of reach since the last full search
        self._due = 0.0

    def settle(self, now: float) -> None:
        """Search everything now, and put out of reach what is alive."""
        gc.unfreeze()
        gc.collect()
        gc.freeze()
        gc.set_threshold(STEP, _NEVER, _NEVER)
        self._grown_old = 0
        self._due = now + PAUSE

    def much_is_old(self) -> None:
        """What was used until now is garbage, as after a reload: search everything as soon as nobody is served."""
        self._grown_old += 1
        self._due = 0.0

    def tick(self, now: float) -> None:
        """Put out of reach what has survived a step, and search everything when it disturbs nobody."""
        steps = gc.get_count()[1]
        if steps:
            gc.freeze()  # which sets the counts to nothing
            self._grown_old += steps
        if self._grown_old and now >= self._due:
            if self._grown_old >= MANY or self._is_idle():
                self.settle(now)
            else:
                self._due = now + 1.0
