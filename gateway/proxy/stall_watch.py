"""Detect a peer that takes nothing of the data that waits for it.

A transport with unsent data waits without end, also when it is to close.
"""

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
