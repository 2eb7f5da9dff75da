"""A breaker: while a store does not answer, callers are told so at once instead of each waiting for its time limit.

closed ── FAILURES in a row, nothing answered meanwhile ──▶ open ── after PAUSE one caller may try ──▶ closed or open
"""

import time
from collections.abc import Callable
from typing import Final

FAILURES: Final = 3
PAUSE: Final = 1.0  # seconds


class Breaker:
    """Counts failures of one store. Times are those of `clock`, in seconds."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures = 0
        self._answered_at = float("-inf")
        self._retry_at: float | None = None
        self._down_at = float("-inf")

    @property
    def closed(self) -> bool:
        """Whether the store is believed to answer."""
        return self._retry_at is None

    def admits(self) -> bool:
        """Whether to ask the store. While open, one caller in each pause is sent to see whether it is back."""
        if self._retry_at is None:
            return True
        now = self._clock()
        if now < self._retry_at:
            return False
        self._retry_at = now + PAUSE
        return True

    def now(self) -> float:
        """When an attempt begins, as `failed` wants it."""
        return self._clock()

    def succeeded(self, started: float) -> None:
        """The store answered an attempt that began at `started`."""
        if started < self._down_at:
            return  # the store has said since that it cannot do its work
        self._answered_at = self._clock()
        self._failures = 0
        self._retry_at = None

    def failed(self, started: float) -> bool:
        """An attempt that began at `started` failed; True where that opens the breaker.

        It does not count where another attempt was answered meanwhile: the store is slow or busy then, not away, and
        a burst that all ran into the limit together must not shut everybody out.
        """
        if self._answered_at > started:
            return False
        self._failures += 1
        if self._failures < FAILURES and self.closed:
            return False
        return self._open()

    def down(self) -> bool:
        """The store itself said that it cannot do its work; True where that opens the breaker."""
        self._down_at = self._clock()
        return self._open()

    def _open(self) -> bool:
        opens = self.closed
        self._retry_at = self._clock() + PAUSE
        return opens
