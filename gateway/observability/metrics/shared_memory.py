"""Where the workers of one gateway put what they have counted, so that each of them can tell the sum.

Made before the workers are forked: for each place two files in memory, which are written in turn, so that one of them
is always whole, and a bell, by which the others ask for what is new. A worker that is killed leaves what it has put
there. Whoever takes its place begins with that, and so no count ever goes backwards.
"""

import asyncio
import mmap
import os
import socket
import tempfile
from contextlib import suppress
from typing import Final, NamedTuple

from gateway.observability.metrics.snapshot import State, counted, decoded, encoded

_PATIENCE: Final = 0.3  # seconds that the others have to put down what is new; then what they did last is taken
_GLANCE: Final = 0.004  # seconds between two looks at whether they have
_FIELDS: Final = 4  # of each place, 8 bytes each
# Which field is which: how often was written here, the lengths of the two files, whether somebody is there.
_TURN: Final = 0
_LENGTHS: Final = 1
_TAKEN: Final = 3


class Board:
    """`places` is how many workers there are at a time."""

    def __init__(self, places: int) -> None:
        self._fields = memoryview(mmap.mmap(-1, places * _FIELDS * 8)).cast("Q")
        self._files = [(_file(), _file()) for _ in range(places)]
        self._bells = [socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(places)]
        for bell in self._bells:
            for end in bell:
                end.setblocking(False)
        self.places = range(places)

    def vacate(self, place: int) -> None:
        """Whoever was there has ended."""
        self._fields[place * _FIELDS + _TAKEN] = 0

    def take(self, place: int) -> None:
        """Somebody is there."""
        self._fields[place * _FIELDS + _TAKEN] = 1

    def is_taken(self, place: int) -> bool:
        """Whether somebody is there."""
        return bool(self._fields[place * _FIELDS + _TAKEN])

    def turn(self, place: int) -> int:
        """How often was written there."""
        return self._fields[place * _FIELDS + _TURN]

    def bell(self, place: int) -> socket.socket:
        """What can be read from when somebody asks."""
        return self._bells[place][0]

    def ring(self, place: int) -> None:
        """Ask for what is new. Who has been asked and has not looked yet need not be asked again."""
        with suppress(OSError):
            self._bells[place][1].send(b"!")

    def write(self, place: int, state: State) -> None:
        """Put down a state. Only whoever is there may, and one at a time."""
        fields, turn = place * _FIELDS, self.turn(place) + 1
        file, length = self._files[place][turn % 2], 0
        for piece in encoded(state):
            length += os.pwrite(file, piece, length)
        self._fields[fields + _LENGTHS + turn % 2] = length
        self._fields[fields + _TURN] = turn  # from here on it is there

    def read(self, place: int) -> State | None:
        """What was put down there last: of somebody who has ended, what it has counted. None: nothing yet."""
        fields = place * _FIELDS
        while turn := self.turn(place):
            length = self._fields[fields + _LENGTHS + turn % 2]
            data = os.pread(self._files[place][turn % 2], length, 0)
            if self.turn(place) == turn:
                state = decoded(data)
                return state if self.is_taken(place) else counted(state)
        return None

    async def others(self, place: int) -> list[State]:
        """What all others have counted. One that does not answer in time is taken with what it has put down last."""
        others = [other for other in self.places if other != place]
        asked = {other: self.turn(other) for other in others if self.is_taken(other)}
        for other in asked:
            self.ring(other)
        with suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE):
                while any(self.turn(other) == turn for other, turn in asked.items() if self.is_taken(other)):  # noqa: ASYNC110  # the news come by memory
                    await asyncio.sleep(_GLANCE)
        return await asyncio.to_thread(lambda: [state for other in others if (state := self.read(other)) is not None])


class Place(NamedTuple):
    """One of the places, for the worker that takes it."""

    board: Board
    number: int


def _file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("gateway-metrics")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
