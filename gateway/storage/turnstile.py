"""A turnstile: as many at a time as there are connections, the others wait in their order.

Waiting for one's turn is not waiting for the database: what a busy database is given up on for is its own time, so a
burst is served late rather than refused. A database that hangs lets nobody through; those who wait are turned away
with the first who ran into the limit.

Patience has a limit. It starts again with each success where `waits_for_progress` is set: a local file that answers
slowly, because the machine is busy, serves every caller in the end.
"""

import asyncio
from collections import deque

from gateway.errors import StorageUnavailable

_Turn = asyncio.Future[str | None]  # why there is no place, None: there is one


class Turnstile:
    """Lets `places` callers through at a time."""

    def __init__(self, places: int, *, waits_for_progress: bool = False) -> None:
        self._free = places
        self._waits_for_progress = waits_for_progress
        self._successes = 0
        self._waiting: deque[_Turn] = deque()

    async def enter(self, patience: float) -> None:
        """Wait for a place, at most `patience` seconds. Raises StorageUnavailable; only who does not may `leave`."""
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
                self.leave()  # the turn came in the moment the caller left
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
            _refuse(turn, "too many wait for it")

    def leave(self, *, succeeded: bool = False) -> None:
        """Free a place for the caller that has waited longest. `succeeded`: the database has done the work."""
        self._successes += succeeded
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1

    def turn_away(self, reason: str) -> None:
        """Refuse all who wait."""
        while self._waiting:
            _refuse(self._waiting.popleft(), reason)


def _refuse(turn: _Turn, reason: str) -> None:
    if not turn.done():
        turn.set_result(reason)
