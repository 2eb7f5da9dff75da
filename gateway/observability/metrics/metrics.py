"""The metrics of this worker, and of all workers together."""

import asyncio
import os
import platform
import resource
import sys
import time
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Final

import gateway
from gateway.observability.metrics.exposition import page_of
from gateway.observability.metrics.shared_memory import WorkerSlot
from gateway.observability.metrics.snapshot import State, counted, state_of, together
from gateway.observability.observer import Observer
from gateway.samples import Sample, SampleSource


def resident_memory(statm: Path = Path("/proc/self/statm")) -> int | None:
    """The resident memory in bytes; None if the system does not report it."""
    try:
        with statm.open("rb", buffering=0) as file:  # four times a second: no buffer, no decoder
            pages = int(file.read(128).split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def resident_or_peak() -> int:
    """The resident memory in bytes, or its peak if the system does not report it."""
    now = resident_memory()
    if now is not None:
        return now
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


_OFTEN: Final = 1.0  # seconds between two writes of the counts, which are lost if the worker is killed
_SHARE: Final = 100  # writing takes at most a hundredth of the time


class Metrics:
    """The metrics of one worker. `slot` is None without other workers. Bound to the event loop that creates it."""

    def __init__(self, observer: Observer, slot: WorkerSlot | None = None) -> None:
        self._observer = observer
        self._slot = slot
        self._sources: list[SampleSource] = [lambda: own_samples(observer)]
        self._inherited: State | None = None
        self._due = 0.0
        self._writing: asyncio.Task[State] | None = None
        self._next: asyncio.Task[State] | None = None
        if slot is not None:
            left = slot.shared.read(slot.number)
            self._inherited = None if left is None else counted(left)
            slot.shared.claim(slot.number)
            asyncio.get_running_loop().add_reader(slot.shared.wake_socket(slot.number), self._update_requested)

    def add(self, source: SampleSource) -> None:
        """Add a source that is read for each page."""
        self._sources.append(source)

    async def page(self) -> bytes:
        """The page with the sums over all workers."""
        state = await self.state()
        return await asyncio.to_thread(page_of, state)

    async def state(self) -> State:
        """The state of all workers together."""
        slot = self._slot
        if slot is None:
            return await self._state()
        # The page includes only counts in shared memory, so that no later page shows less if this worker is killed.
        own, others = await asyncio.gather(asyncio.shield(self._write_soon()), slot.shared.others(slot.number))
        return await asyncio.to_thread(together, [own, *others])

    def tick(self, now: float) -> None:
        """Write the counts at intervals. `now` is the loop's time."""
        if self._slot is not None and now >= self._due:
            self._write_soon()

    def close(self) -> None:
        """Write the final counts."""
        if self._slot is not None:
            shared, number = self._slot.shared, self._slot.number
            asyncio.get_running_loop().remove_reader(shared.wake_socket(number))
            if self._writing is None:
                shared.write(number, self._whole(self._samples()))

    # ---- this worker

    def _samples(self) -> list[Sample]:
        tasks = Sample("gateway_tasks", (), len(asyncio.all_tasks()))
        return [tasks, *chain.from_iterable(source() for source in self._sources)]

    def _whole(self, samples: list[Sample]) -> State:
        state = state_of(self._observer.snapshot(), samples)
        return state if self._inherited is None else together([state, self._inherited])

    async def _state(self) -> State:
        """Sources are read on the loop. The rest runs in a thread, because it takes long for many routes."""
        return await asyncio.to_thread(self._whole, self._samples())

    # ---- the shared memory

    def _update_requested(self) -> None:
        assert self._slot is not None
        wake_socket = self._slot.shared.wake_socket(self._slot.number)
        try:
            while wake_socket.recv(1):
                pass
        except BlockingIOError:
            self._write_soon()

    def _write_soon(self) -> "asyncio.Task[State]":
        """Write the counts, including those of the near future: requests that wait for the same write share it."""
        if self._next is None:
            self._next = asyncio.get_running_loop().create_task(self._write(self._writing))
        return self._next

    async def _write(self, before: "asyncio.Task[State] | None") -> State:
        if before is not None:
            await asyncio.wait((before,))
        self._writing, self._next = self._next, None
        loop = asyncio.get_running_loop()
        started = loop.time()
        assert self._slot is not None
        try:
            state = await self._state()
            await asyncio.to_thread(self._slot.shared.write, self._slot.number, state)
        finally:
            self._writing = None
            self._due = loop.time() + max(_OFTEN, _SHARE * (loop.time() - started))
        return state


def own_samples(observer: Observer) -> Iterator[Sample]:
    """Samples about the process itself."""
    yield Sample("gateway_build_info", (gateway.__version__, platform.python_version(), gateway.build()), 1)
    yield Sample("gateway_workers", (), 1)
    yield Sample("gateway_access_log_dropped_total", (), observer.dropped)
    yield Sample("process_start_time_seconds", (), observer.started_at)
    yield Sample("process_cpu_seconds_total", (), time.process_time())
    memory = resident_memory()
    if memory is not None:
        yield Sample("process_resident_memory_bytes", (), memory)
