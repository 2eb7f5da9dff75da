"""A line in which callers take turns: whoever brings much waits for it himself.

Each caller's own work is done in its order, and of one caller's work one piece at a time before the next caller's turn.
When the line is full, the place for a newcomer is taken from the caller who has most waiting: one who floods may have
the whole line while nobody else wants it, and only the flood is refused once somebody does.
"""

from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class FairLine(Generic[T]):
    """Room for `room` pieces of work."""

    def __init__(self, room: int) -> None:
        self._room = room
        self._waiting = 0
        self._lines: dict[str, deque[T]] = {}  # in the order of their turns

    def __len__(self) -> int:
        return self._waiting

    def join(self, caller: str, work: T) -> T | None:
        """Put work into the line. Where there is no room for it: the work that must go, which may be this one."""
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
        """Take the work whose turn it is out of the line; None: there is none."""
        for caller in self._lines:
            line = self._lines.pop(caller)
            self._waiting -= 1
            work = line.popleft()
            if line:
                self._lines[caller] = line
            return work
        return None

    def leave(self, caller: str, work: T) -> None:
        """Take work out of the line, if it is still there."""
        line = self._lines.get(caller)
        if line is None or work not in line:
            return
        line.remove(work)
        self._waiting -= 1
        if not line:
            del self._lines[caller]
