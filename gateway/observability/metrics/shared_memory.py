"""Shared memory through which each worker can report the metrics of all workers.

Created before the workers are forked. Each place has two files in memory that are written alternately, so that one of
them is always complete, and a bell, a socket through which others request an update. A killed worker's counts remain
and its successor starts from them, so counters never decrease.
"""

import asyncio
import mmap
import os
import socket
import tempfile
from contextlib import suppress
from itertools import chain
from typing import Final, NamedTuple

from gateway.observability.metrics.snapshot import State, counted, decoded, encoded

_PATIENCE: Final = 0.3  # seconds to wait for updates of other workers; then their last state is used
_GLANCE: Final = 0.004  # seconds between two checks for updates
_FIELDS: Final = 4  # per place, 8 bytes each
# The fields: number of writes, lengths of the two files, whether a worker holds the place.
_TURN: Final = 0
_LENGTHS: Final = 1
_TAKEN: Final = 3


class SharedMetrics:
    """`places` is the maximum number of concurrent workers."""

    def __init__(self, places: int) -> None:
        self._fields = memoryview(mmap.mmap(-1, places * _FIELDS * 8)).cast("Q")
        self._files = [(_file(), _file()) for _ in range(places)]
        self._bells = [socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(places)]
        for bell in self._bells:
            for end in bell:
                end.setblocking(False)
        self.places = range(places)

    def close(self) -> None:
        """Close the files and sockets of this process."""
        self._fields.release()
        for file in chain.from_iterable(self._files):
            os.close(file)
        for bell in chain.from_iterable(self._bells):
            bell.close()

    def vacate(self, place: int) -> None:
        """Release a place after its worker ended."""
        self._fields[place * _FIELDS + _TAKEN] = 0

    def take(self, place: int) -> None:
        """Mark a place as held by a worker."""
        self._fields[place * _FIELDS + _TAKEN] = 1

    def is_taken(self, place: int) -> bool:
        """True if a worker holds this place."""
        return bool(self._fields[place * _FIELDS + _TAKEN])

    def turn(self, place: int) -> int:
        """The number of writes to a place."""
        return self._fields[place * _FIELDS + _TURN]

    def bell(self, place: int) -> socket.socket:
        """The socket that becomes readable when another worker requests an update."""
        return self._bells[place][0]

    def ring(self, place: int) -> None:
        """Request an update. A pending request is not repeated."""
        with suppress(OSError):
            self._bells[place][1].send(b"!")

    def write(self, place: int, state: State) -> None:
        """Store a state. Only the worker that holds the place calls this, one call at a time."""
        fields, turn = place * _FIELDS, self.turn(place) + 1
        file, length = self._files[place][turn % 2], 0
        for piece in encoded(state):
            length += os.pwrite(file, piece, length)
        self._fields[fields + _LENGTHS + turn % 2] = length
        self._fields[fields + _TURN] = turn  # publishes the state

    def read(self, place: int) -> State | None:
        """The last stored state, or only the counts if the worker has ended. None if nothing was stored."""
        fields = place * _FIELDS
        while turn := self.turn(place):
            length = self._fields[fields + _LENGTHS + turn % 2]
            data = os.pread(self._files[place][turn % 2], length, 0)
            if self.turn(place) == turn:
                state = decoded(data)
                return state if self.is_taken(place) else counted(state)
        return None

    async def others(self, place: int) -> list[State]:
        """The states of all other workers. A worker that does not update in time contributes its last state."""
        others = [other for other in self.places if other != place]
        turns = {other: self.turn(other) for other in others if self.is_taken(other)}
        for other in turns:
            self.ring(other)
        with suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE):
                while any(self.turn(other) == turn for other, turn in turns.items() if self.is_taken(other)):  # noqa: ASYNC110  # other processes cannot set an event
                    await asyncio.sleep(_GLANCE)
        return await asyncio.to_thread(lambda: [state for other in others if (state := self.read(other)) is not None])


class WorkerSlot(NamedTuple):
    """A place for one worker."""

    board: SharedMetrics
    number: int


def _file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("gateway-metrics")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
