"""A circuit breaker: while a store does not answer, calls fail at once and do not wait for their time limit.

closed ── FAILURES in a row, without an answer in between ──▶ open ── after PAUSE one call is tried ──▶ closed or open
"""

import time
from collections.abc import Callable
from typing import Final

FAILURES: Final = 3
PAUSE: Final = 1.0  # seconds


class Breaker:
    """Counts failures of one store. `clock` returns seconds."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures = 0
        self._answered_at = float("-inf")
        self._retry_at: float | None = None
        self._down_at = float("-inf")

    @property
    def closed(self) -> bool:
        """Whether the store answered the last calls."""
        return self._retry_at is None

    def admits(self) -> bool:
        """Return whether to call the store. While the breaker is open, one call in each pause tests the store."""
        if self._retry_at is None:
            return True
        now = self._clock()
        if now < self._retry_at:
            return False
        self._retry_at = now + PAUSE
        return True

    def now(self) -> float:
        """Return the start time of a call, to be given to `succeeded` or `failed`."""
        return self._clock()

    def succeeded(self, started: float) -> None:
        """Note that the store answered a call that began at `started`."""
        if started < self._down_at:
            return  # the store has reported since that it cannot work
        self._answered_at = self._clock()
        self._failures = 0
        self._retry_at = None

    def failed(self, started: float) -> bool:
        """Note that a call that began at `started` failed. Return whether this opens the breaker.

        The failure does not count if the store answered another call since `started`: it is slow or busy then, not
        down. A burst of calls that time out together does not open the breaker.
        """
        if self._answered_at > started:
            return False
        self._failures += 1
        if self._failures < FAILURES and self.closed:
            return False
        return self._open()

    def down(self) -> bool:
        """Note that the store itself reports that it cannot work. Return whether this opens the breaker."""
        self._down_at = self._clock()
        return self._open()

    def _open(self) -> bool:
        opens = self.closed
        self._retry_at = self._clock() + PAUSE
        return opens
