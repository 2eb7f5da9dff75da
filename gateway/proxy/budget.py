"""How much may be sent a second time: when everything fails, retries must not double the load on what is failing."""

from typing import Final

_FLOOR: Final = 20.0  # retries that are always there, so that a quiet gateway can retry at all
_CEILING: Final = 100.0  # what can be saved up: enough for what is under way to a target when it dies, and no storm


class RetryBudget:
    """`share` of the requests, plus 20, over the life of the process. Counted as tokens, of which at most 100 are saved
    up: however good the last hour was, once everything fails no more than those are added to the share."""

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
