"""Passwords: validation, and hashing in threads.

bcrypt uses only the first 72 bytes, so longer passwords are refused instead of truncated (CVE-2025-22228). The length
is in bytes of UTF-8 after NFC, which makes the same password from different keyboards the same bytes. Hashing takes a
quarter of a second of CPU at the usual cost and releases the GIL. It runs in one low-priority thread per core, behind a
bounded fair queue.
"""

import asyncio
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import Any, Final, NewType, TypeVar

import bcrypt

from gateway.accounts.fair_queue import FairLine
from gateway.accounts.normalization import composed
from gateway.errors import Refusal, without_traceback
from gateway.samples import Durations, Sample

T = TypeVar("T")

# NFC, UTF-8, at most 72 bytes without NUL: bcrypt uses every byte.
Password = NewType("Password", bytes)

# Raises Refusal if the job must no longer run.
Check = Callable[[], None]

MAX_BYTES: Final = 72
MAX_THREADS: Final = 8
QUEUE: Final = 100  # The number of jobs waiting for a thread.
_NICE: Final = 5  # About a third of the event loop's scheduling weight when cores are busy.
MAX_ROUNDS: Final = 16  # 2 ** 16 takes 4 seconds of CPU; hashes with more rounds would block all others.
# Rounds, 22 characters of salt of which the last carries only 2 bits, and 31 characters of hash.
_BCRYPT: Final = re.compile(r"\$2[aby]\$(0[4-9]|1[0-6])\$[./A-Za-z0-9]{21}[.Oeu][./A-Za-z0-9]{31}").fullmatch
_MADE_UP: Final = "." * 53  # A salt and a hash that no password matches.


def chosen_password(text: str, *, min_length: int) -> Password:
    """Validate a new password; `min_length` is in characters. Raises ValueError with a message for the user."""
    normalised = composed(text, max_bytes=MAX_BYTES)
    if len(normalised) < min_length:
        raise ValueError(f"must be at least {min_length} characters long")
    if "\0" in normalised:
        raise ValueError("must not contain a NUL character")
    try:
        encoded = normalised.encode()
    except UnicodeEncodeError:
        raise ValueError("must be valid Unicode text") from None
    if len(encoded) > MAX_BYTES:
        raise ValueError(f"must be at most {MAX_BYTES} bytes long in UTF-8, this is {len(encoded)} bytes")
    return Password(encoded)


def presented_password(text: str) -> Password | None:
    """Normalise a password to be checked. None for text that cannot be a password; it is then simply wrong."""
    try:
        return chosen_password(text, min_length=0)
    except ValueError:
        return None


class _Job:
    """Work waiting for a thread. `check` runs before the work and can refuse it."""

    __slots__ = ("asked", "began", "check", "outcome", "work")

    def __init__(self, work: Callable[[], Any], check: Check | None, outcome: "asyncio.Future[Any]") -> None:
        self.work = work
        self.check = check
        self.outcome = outcome
        self.asked = self.began = monotonic()


class PasswordPool:
    """Hashes and checks passwords with bcrypt at a cost of 2 to the power of `rounds`.

    Every check takes the same work, because timing would reveal which addresses have an account (GHSA-6f65-4fv2-wwch):
    the work of `rounds`, or of the most expensive known stored hash, even if the stored hash is cheaper or missing.

    Asynchronous methods raise Refusal("overloaded") when the queue is full. The queue is fair across callers,
    identified by `caller`: a client that sends many passwords delays only itself. Jobs of cancelled callers are
    dropped.
    """

    def __init__(self, *, rounds: int, threads: int | None = None, queue: int = QUEUE) -> None:
        self._free = threads if threads is not None else min(os.cpu_count() or 1, MAX_THREADS)
        self._rounds = self._most_rounds = rounds
        self._line: FairLine[_Job] = FairLine(queue)
        self._waits = Durations("gateway_password_wait_seconds")
        self._works = Durations("gateway_password_work_seconds")
        self._executor = ThreadPoolExecutor(self._free, thread_name_prefix="bcrypt", initializer=_stand_back)

    async def hash(self, password: Password, *, caller: str = "") -> str:
        """A hash to store, with a new salt."""
        return await self._run(partial(_hash, password, self._rounds), caller)

    async def matches(
        self, password: Password | None, stored: str | None, *, caller: str = "", check: Check | None = None
    ) -> bool:
        """Whether the password matches a stored hash. Without a hash (unknown user), with a foreign hash format, or
        without a possible password the result is False, after the same work."""
        self.expect(rounds_of(stored))
        return await self._run(partial(_matches, password, stored, self._most_rounds), caller, check)

    def expect(self, rounds: int) -> None:
        """Note that hashes of this cost are stored; from now on checks take as much work."""
        self._most_rounds = max(self._most_rounds, rounds)

    def is_outdated(self, stored: str) -> bool:
        """Whether a hash has a cost other than the configured one."""
        return rounds_of(stored) != self._rounds

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

    async def _run(self, work: Callable[[], T], caller: str = "", check: Check | None = None) -> T:
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

    def _start(self, job: _Job) -> None:
        self._free -= 1
        job.began = monotonic()
        self._waits.observe(job.began - job.asked)
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


def rounds_of(stored: str | None) -> int:
    """The cost of a bcrypt hash; 0 for other text."""
    found = None if stored is None else _BCRYPT(stored)
    return 0 if found is None else int(found[1])


def _matches(password: Password | None, stored: str | None, rounds: int) -> bool:
    """The result, after the work of `rounds` rounds, or of the hash's own cost if that is higher."""
    cost = rounds_of(stored)
    if not cost or stored is None:
        _work(password, rounds)
        return False
    is_right = bcrypt.checkpw(password or b"", stored.encode("ascii"))
    # 2^cost + (2^cost + 2^(cost+1) + … + 2^(rounds-1)) = 2^rounds
    for missing in range(cost, rounds):
        _work(password, missing)
    return is_right and password is not None


def _work(password: Password | None, rounds: int) -> None:
    bcrypt.checkpw(password or b"", f"$2b${rounds:02d}${_MADE_UP}".encode("ascii"))


def _hash(password: Password, rounds: int) -> str:
    return bcrypt.hashpw(password, bcrypt.gensalt(rounds)).decode("ascii")


def _stand_back() -> None:
    """Lower the priority of this thread. On Linux priority is per thread, so logins get less CPU than the event loop.
    Without the permission hashing continues at normal priority."""
    if sys.platform == "linux":
        thread = threading.get_native_id()
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + _NICE)
