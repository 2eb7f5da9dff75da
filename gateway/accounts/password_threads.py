"""Threads for password work: low priority, behind a bounded fair queue.

The queue is fair across callers: a client that sends many passwords delays only itself. Jobs of cancelled callers are
dropped.
"""

import asyncio
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import Any, Final, Generic, TypeVar

from gateway.errors import Refusal, without_traceback
from gateway.samples import Durations, Sample

T = TypeVar("T")


# Fair queue: round-robin across clients, FIFO within one.
#
# Each client's jobs run in their order, one per turn. When the queue is full, the newest job of the client with the
# most jobs is evicted: a flood can use the whole queue while it is idle, and is the only traffic refused once other
# clients arrive.
class FairQueue(Generic[T]):
    """A queue for at most `max_jobs` jobs."""

    def __init__(self, max_jobs: int) -> None:
        self._max_jobs = max_jobs
        self._waiting = 0
        self._lines: dict[str, deque[T]] = {}  # in the order of their turns

    def __len__(self) -> int:
        return self._waiting

    def join(self, caller: str, work: T) -> T | None:
        """Add a job. If the queue is full, returns the evicted job, possibly this one."""
        self._lines.setdefault(caller, deque()).append(work)
        self._waiting += 1
        if self._waiting <= self._max_jobs:
            return None
        own = len(self._lines[caller])
        longest = max(self._lines, key=lambda each: len(self._lines[each]))
        evicted_caller = longest if len(self._lines[longest]) > own else caller
        evicted = self._lines[evicted_caller][-1]
        self.leave(evicted_caller, evicted)
        return evicted

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


# Raises Refusal if the job must no longer run.
Check = Callable[[], None]

MAX_THREADS: Final = 8
QUEUE: Final = 100  # The number of jobs waiting for a thread.
_NICE: Final = 5  # About a third of the event loop's scheduling weight when cores are busy.


class _Job:
    """Work waiting for a thread. `check` runs before the work and can refuse it."""

    __slots__ = ("began", "check", "outcome", "queued", "work")

    def __init__(self, work: Callable[[], Any], check: Check | None, outcome: "asyncio.Future[Any]") -> None:
        self.work = work
        self.check = check
        self.outcome = outcome
        self.queued = self.began = monotonic()


class PasswordThreads:
    """`count` threads, one per core by default, and a queue for at most `queue` jobs."""

    def __init__(self, count: int | None = None, *, queue: int = QUEUE) -> None:
        self._free = count if count is not None else min(os.cpu_count() or 1, MAX_THREADS)
        self._line: FairQueue[_Job] = FairQueue(queue)
        self._waits = Durations("gateway_password_wait_seconds")
        self._works = Durations("gateway_password_work_seconds")
        self._executor = ThreadPoolExecutor(self._free, thread_name_prefix="bcrypt", initializer=_stand_back)

    async def run(self, work: Callable[[], T], *, caller: str = "", check: Check | None = None) -> T:
        """Run `work` in a thread when it is the caller's turn. Raises Refusal("overloaded") when the queue is full, and
        the Refusal of `check`."""
        job = _Job(work, check, asyncio.get_running_loop().create_future())
        if self._free and not len(self._line):
            if check is not None:
                check()  # The condition can have changed during the account lookup.
            self._start(job)
        else:
            refused = self._line.join(caller, job)
            if refused is not None and not refused.outcome.done():
                refused.outcome.set_exception(Refusal("overloaded", "the password queue is full", retry_after=1))
        try:
            result: T = await job.outcome
            return result
        finally:
            self._line.leave(caller, job)
            del job  # The outcome holds the exception, and its traceback holds this frame.

    def samples(self) -> Iterator[Sample]:
        """The queue length, and histograms of waiting and working time."""
        yield Sample("gateway_passwords_waiting", (), len(self._line))
        yield from self._waits.samples()
        yield from self._works.samples()

    def close(self) -> None:
        """Cancel waiting jobs; running ones finish."""
        while (job := self._line.next()) is not None:
            job.outcome.cancel()
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _start(self, job: _Job) -> None:
        self._free -= 1
        job.began = monotonic()
        self._waits.observe(job.began - job.queued)
        running = asyncio.get_running_loop().run_in_executor(self._executor, job.work)
        running.add_done_callback(partial(self._ended, job))

    def _ended(self, job: _Job, running: "asyncio.Future[Any]") -> None:
        self._free += 1
        self._works.observe(monotonic() - job.began)
        outcome = job.outcome
        if running.cancelled():
            outcome.cancel()
            return
        error = running.exception()
        if outcome.done():  # its caller was cancelled
            pass
        elif error is not None:
            outcome.set_exception(error)
        else:
            outcome.set_result(running.result())
        # Runs after the waiter has seen the outcome: a wrong password counts before the next one is checked.
        running.get_loop().call_soon(self._start_next)

    def _start_next(self) -> None:
        while self._free and (job := self._line.next()) is not None:
            if job.outcome.done():
                continue
            try:
                if job.check is not None:
                    job.check()
            except Refusal as refusal:
                job.outcome.set_exception(without_traceback(refusal))
            else:
                self._start(job)


def _stand_back() -> None:
    """Lower the priority of this thread. On Linux priority is per thread, so logins get less CPU than the event loop.
    Without the permission hashing continues at normal priority."""
    if sys.platform == "linux":
        thread = threading.get_native_id()
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + _NICE)
