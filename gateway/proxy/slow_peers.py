"""Detect peers that block a connection by reading nothing, or by sending a body too slowly.

A transport with unsent data waits without end, also when it is to close. A client that sends an occasional byte never
pauses for long, but can occupy an upstream connection indefinitely (`server.min_body_rate`).
"""

from collections import deque
from typing import Final

STALL: Final = 60.0  # Seconds in which a peer must take something.


class StallWatch:
    """Follows the unsent data of one transport."""

    __slots__ = ("_since", "_unsent")

    def __init__(self) -> None:
        self._unsent = 0
        self._since = 0.0

    def has_stalled(self, unsent: int, now: float) -> bool:
        """Whether the number of unsent bytes has not changed for STALL seconds."""
        if unsent != self._unsent:
            self._unsent, self._since = unsent, now
            return False
        return unsent > 0 and now - self._since > STALL


WINDOW: Final = 15.0  # Seconds over which the rate is averaged.
_STEP: Final = 1.0  # Seconds between two stored samples.


class UploadRate:
    """Follows one upload. `grace` is the time in seconds before the first window begins."""

    __slots__ = ("_active", "_grace", "_last", "_least", "_samples")

    def __init__(self, least: int, grace: float, now: float) -> None:
        self._least = least  # bytes per second
        self._grace = grace
        self._last = now
        self._active = 0.0  # seconds in which the client could send
        self._samples: deque[tuple[float, int]] = deque()  # active time and byte count, for the current window

    def too_slow(self, now: float, received: int, *, held_back: bool = False) -> bool:
        """Whether the last window of 15 s contained too few bytes. `received` counts the bytes of the body so far.

        `held_back` excludes the time since the last call, because the upstream did not read.
        """
        elapsed, self._last = now - self._last, now
        if held_back:
            return False
        self._active += elapsed
        if self._active < self._grace:
            return False
        samples = self._samples
        if not samples or self._active - samples[-1][0] >= _STEP:
            samples.append((self._active, received))
        while len(samples) > 1 and self._active - samples[1][0] >= WINDOW:
            samples.popleft()
        since, before = samples[0]
        return self._active - since >= WINDOW and received - before < self._least * WINDOW
