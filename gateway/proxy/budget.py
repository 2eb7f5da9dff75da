"""How much may be sent a second time: when everything fails, retries must not double the load on what is failing."""

from typing import Final

_FLOOR: Final = 20.0  # retries that are always there, so that a quiet gateway can retry at all
_CEILING: Final = 100.0  # what can be saved up, so that a good hour does not pay for a storm


class RetryBudget:
    """`share` of the requests, plus 20. Counted as tokens: over any time, retries are at most 20 + share x requests."""

    __slots__ = ("_share", "_tokens")

    def __init__(self, share: float) -> None:
        self._share = share
        self._tokens = _FLOOR

    def request(self) -> None:
        """A request came."""
        if self._tokens < _CEILING:
            self._tokens += self._share

    def take(self) -> bool:
        """Whether one more retry is in the budget; if so it is taken from it."""
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True
