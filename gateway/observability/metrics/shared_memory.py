"""Shared memory through which each worker can report the metrics of all workers.

Created before the workers are forked. Each worker has a slot: two files in memory that are written alternately, so that
one of them is always complete, and a socket through which others request an update. A killed worker's counts remain and
its successor starts from them, so counters never decrease.
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
_POLL: Final = 0.004  # seconds between two checks for updates
_FIELDS: Final = 4  # per slot, 8 bytes each
# The fields: number of writes, lengths of the two files, whether a worker holds the slot.
_WRITES: Final = 0
_LENGTHS: Final = 1
_CLAIMED: Final = 3


class SharedMetrics:
    """`slots` is the maximum number of concurrent workers."""

    def __init__(self, slots: int) -> None:
        self._fields = memoryview(mmap.mmap(-1, slots * _FIELDS * 8)).cast("Q")
        self._files = [(_file(), _file()) for _ in range(slots)]
        self._wake_sockets = [socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(slots)]
        for wake_socket in self._wake_sockets:
            for end in wake_socket:
                end.setblocking(False)
        self.slots = range(slots)

    def close(self) -> None:
        """Close the files and sockets of this process."""
        self._fields.release()
        for file in chain.from_iterable(self._files):
            os.close(file)
        for wake_socket in chain.from_iterable(self._wake_sockets):
            wake_socket.close()

    def release(self, slot: int) -> None:
        """Release a slot after its worker ended."""
        self._fields[slot * _FIELDS + _CLAIMED] = 0

    def claim(self, slot: int) -> None:
        """Mark a slot as held by a worker."""
        self._fields[slot * _FIELDS + _CLAIMED] = 1

    def is_claimed(self, slot: int) -> bool:
        """Whether a worker holds this slot."""
        return bool(self._fields[slot * _FIELDS + _CLAIMED])

    def write_count(self, slot: int) -> int:
        """The number of writes to a slot."""
        return self._fields[slot * _FIELDS + _WRITES]

    def wake_socket(self, slot: int) -> socket.socket:
        """The socket that becomes readable when another worker requests an update."""
        return self._wake_sockets[slot][0]

    def request_update(self, slot: int) -> None:
        """Request an update. A pending request is not repeated."""
        with suppress(OSError):
            self._wake_sockets[slot][1].send(b"!")

    def write(self, slot: int, state: State) -> None:
        """Store a state. Only the worker that holds the slot calls this, one call at a time."""
        fields, write_count = slot * _FIELDS, self.write_count(slot) + 1
        file, length = self._files[slot][write_count % 2], 0
        for piece in encoded(state):
            length += os.pwrite(file, piece, length)
        self._fields[fields + _LENGTHS + write_count % 2] = length
        self._fields[fields + _WRITES] = write_count  # publishes the state

    def read(self, slot: int) -> State | None:
        """The last stored state, or only the counts if the worker has ended. None if nothing was stored."""
        fields = slot * _FIELDS
        while write_count := self.write_count(slot):
            length = self._fields[fields + _LENGTHS + write_count % 2]
            data = os.pread(self._files[slot][write_count % 2], length, 0)
            if self.write_count(slot) == write_count:
                state = decoded(data)
                return state if self.is_claimed(slot) else counted(state)
        return None

    async def others(self, slot: int) -> list[State]:
        """The states of all other workers. A worker that does not update in time contributes its last state."""
        others = [other for other in self.slots if other != slot]
        before = {other: self.write_count(other) for other in others if self.is_claimed(other)}
        for other in before:
            self.request_update(other)
        with suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE):
                while any(self._is_outstanding(*each) for each in before.items()):  # noqa: ASYNC110  # other processes cannot set an event
                    await asyncio.sleep(_POLL)
        return await asyncio.to_thread(lambda: [state for other in others if (state := self.read(other)) is not None])

    def _is_outstanding(self, slot: int, before: int) -> bool:
        """Whether a worker has written nothing since `before` writes."""
        return self.is_claimed(slot) and self.write_count(slot) == before


class WorkerSlot(NamedTuple):
    """The slot of one worker in the shared metrics."""

    shared: SharedMetrics
    number: int


def _file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("gateway-metrics")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
