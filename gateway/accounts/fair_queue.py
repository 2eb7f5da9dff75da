"""Fair queue: round-robin across clients, FIFO within one.

Each client's jobs run in their order, one per turn. When the queue is full, the newest job of the client with the most
jobs is evicted: a flood can use the whole queue while it is idle, and is the only traffic refused once other clients
arrive.
"""

from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class FairQueue(Generic[T]):
    """A queue for at most `room` jobs."""

    def __init__(self, room: int) -> None:
        self._room = room
        self._waiting = 0
        self._lines: dict[str, deque[T]] = {}  # in the order of their turns

    def __len__(self) -> int:
        return self._waiting

    def join(self, caller: str, work: T) -> T | None:
        """Add a job. If the queue is full, returns the evicted job, possibly this one."""
        self._lines.setdefault(caller, deque()).append(work)
        self._waiting += 1
        if self._waiting <= self._room:
            return None
        own = len(self._lines[caller])
        longest = max(self._lines, key=lambda each: len(self._lines[each]))
        loser = longest if len(self._lines[longest]) > own else caller
        out = self._lines[loser][-1]
        self.leave(loser, out)
        return out

    def next(self) -> T | None:
        """Remove and return the next job; None for an empty queue."""
        for caller in self._lines:
            line = self._lines.pop(caller)
            self._waiting -= 1
            work = line.popleft()
            if line:
                self._lines[caller] = line
            return work
        return None

    def leave(self, caller: str, work: T) -> None:
        """Remove a job if it is still queued."""
        line = self._lines.get(caller)
        if line is None or work not in line:
            return
        line.remove(work)
        self._waiting -= 1
        if not line:
            del self._lines[caller]
