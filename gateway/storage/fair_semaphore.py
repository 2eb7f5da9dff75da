"""A fair semaphore that limits concurrent work on a database. Further callers wait in order.

Waiting for a place has a limit of its own and does not count as waiting for the database, so a burst is served late and
not refused. If the database hangs, no caller gets a place: when the first call reaches its limit, all waiting callers
are refused.

`patience` limits the wait. With `waits_for_progress` it starts again with each success, because a local file that
answers slowly on a busy machine serves every caller in the end.
"""

import asyncio
from collections import deque

from gateway.errors import StorageUnavailable

_Turn = asyncio.Future[str | None]  # the reason for a refusal, None for a place


class FairSemaphore:
    """Admits `places` callers at a time."""

    def __init__(self, places: int, *, waits_for_progress: bool = False) -> None:
        self._free = places
        self._waits_for_progress = waits_for_progress
        self._successes = 0
        self._waiting: deque[_Turn] = deque()

    async def enter(self, patience: float) -> None:
        """Wait for a place, at most `patience` seconds. Raises StorageUnavailable. After success, call `leave`."""
        if self._free:
            self._free -= 1
            return
        loop = asyncio.get_running_loop()
        turn: _Turn = loop.create_future()
        self._waiting.append(turn)
        timer = loop.call_later(patience, self._end_patience, turn, patience, self._successes)
        try:
            refusal = await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.result() is None:
                self.leave()  # the place arrived at the moment of the cancellation
            raise
        finally:
            timer.cancel()
        if refusal is not None:
            raise StorageUnavailable("database", refusal)

    def _end_patience(self, turn: _Turn, patience: float, successes: int) -> None:
        if turn.done():
            return
        if self._waits_for_progress and self._successes != successes:
            turn.get_loop().call_later(patience, self._end_patience, turn, patience, self._successes)
        else:
            _refuse(turn, "too many operations are waiting")

    def leave(self, *, succeeded: bool = False) -> None:
        """Free a place for the caller that has waited longest. `succeeded`: the database did the work."""
        self._successes += succeeded
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1

    def turn_away(self, reason: str) -> None:
        """Refuse all waiting callers."""
        while self._waiting:
            _refuse(self._waiting.popleft(), reason)


def _refuse(turn: _Turn, reason: str) -> None:
    if not turn.done():
        turn.set_result(reason)
