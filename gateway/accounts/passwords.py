"""Passwords: which are accepted, and hashing them without holding up anything else.

bcrypt looks at 72 bytes and no further, so anything longer is refused rather than cut (CVE-2025-22228), counted in
bytes of UTF-8 after NFC: the same password typed on another keyboard is the same bytes. It takes a quarter of a second
of a core at the usual cost and lets go of the GIL meanwhile: it runs in as many threads as there are cores, of lower
priority than the proxying, behind a line in which callers take turns and that is full at some point.
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

from gateway.accounts.composing import composed
from gateway.accounts.fair_line import FairLine
from gateway.counting import Durations, Sample
from gateway.errors import Refusal, without_traceback

T = TypeVar("T")

# NFC, UTF-8, at most 72 bytes, none of them 0: what bcrypt takes in whole.
Password = NewType("Password", bytes)

# Raises Refusal where something must not be done any more.
Check = Callable[[], None]

MAX_BYTES: Final = 72
MAX_THREADS: Final = 8
QUEUE: Final = 100  # waiting for a thread
_NICE: Final = 5  # a third of the weight of the event loop, where cores are short
MAX_ROUNDS: Final = 16  # 2 ** 16 take 4 seconds of a core; a hash of more rounds would hold up all others
# The rounds, 22 characters of salt, of which the last carries 2 bits only, and 31 of hash.
_BCRYPT: Final = re.compile(r"\$2[aby]\$(0[4-9]|1[0-6])\$[./A-Za-z0-9]{21}[.Oeu][./A-Za-z0-9]{31}").fullmatch
_MADE_UP: Final = "." * 53  # a salt and a hash that no password has


def chosen_password(text: str, *, min_length: int) -> Password:
    """A new password, `min_length` in characters. Raises ValueError with a sentence for its owner."""
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
    """A password that somebody claims is theirs. None: nobody can have chosen it, which is no more than wrong."""
    try:
        return chosen_password(text, min_length=0)
    except ValueError:
        return None


class _Job:
    """Work that waits for a thread. `check` is asked when there is one, whether it may still be done."""

    __slots__ = ("asked", "began", "check", "outcome", "work")

    def __init__(self, work: Callable[[], Any], check: Check | None, outcome: "asyncio.Future[Any]") -> None:
        self.work = work
        self.check = check
        self.outcome = outcome
        self.asked = self.began = monotonic()


class PasswordPool:
    """Hashes passwords with bcrypt of `rounds` rounds (2 to the power of them), and checks them.

    Every check takes the same work, or its time would tell which addresses have an account (GHSA-6f65-4fv2-wwch): that
    of `rounds`, or of the stored hash with the most rounds that is known, be there a hash, a cheaper one, or none.

    Everything asynchronous raises Refusal("overloaded") when too much waits already. Callers take turns, and `caller`
    says whose it is: one who sends many passwords waits for them himself. Work whose caller has left before a thread
    was free is not done.
    """

    def __init__(self, *, rounds: int, threads: int | None = None, queue: int = QUEUE) -> None:
        self._free = threads if threads is not None else min(os.cpu_count() or 1, MAX_THREADS)
        self._rounds = self._most_rounds = rounds
        self._line: FairLine[_Job] = FairLine(queue)
        self._waits = Durations("gateway_password_wait_seconds")
        self._works = Durations("gateway_password_work_seconds")
        self._executor = ThreadPoolExecutor(self._free, thread_name_prefix="bcrypt", initializer=_stand_back)

    async def hash(self, password: Password, *, caller: str = "") -> str:
        """The hash to store, with a salt of its own."""
        return await self._run(partial(_hash, password, self._rounds), caller)

    async def matches(
        self, password: Password | None, stored: str | None, *, caller: str = "", check: Check | None = None
    ) -> bool:
        """Whether this is the password of a stored hash. Without a hash (no such user), with one that is none of
        bcrypt, or without a password that could be one the answer is no, after the same work."""
        self.expect(rounds_of(stored))
        return await self._run(partial(_matches, password, stored, self._most_rounds), caller, check)

    def expect(self, rounds: int) -> None:
        """Hashes of this many rounds are stored: checks take as much work from now on."""
        self._most_rounds = max(self._most_rounds, rounds)

    def is_outdated(self, stored: str) -> bool:
        """Whether a hash was made with another cost than is asked for now."""
        return rounds_of(stored) != self._rounds

    def samples(self) -> Iterator[Sample]:
        """How many wait, and how long it took."""
        yield Sample("gateway_passwords_waiting", (), len(self._line))
        yield from self._waits.samples()
        yield from self._works.samples()

    def close(self) -> None:
        """Drop what waits; what runs ends by itself."""
        while (job := self._line.next()) is not None:
            job.outcome.cancel()
        self._executor.shutdown(wait=False, cancel_futures=True)

    async def _run(self, work: Callable[[], T], caller: str = "", check: Check | None = None) -> T:
        job = _Job(work, check, asyncio.get_running_loop().create_future())
        if self._free and not len(self._line):
            if check is not None:
                check()  # what it asks may have changed while the account was looked up
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
            del job  # its outcome keeps the exception, whose traceback keeps this frame

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
        if outcome.done():  # its caller has left
            pass
        elif error is not None:
            outcome.set_exception(error)
        else:
            outcome.set_result(running.result())
        # After whoever waited for this has seen it: a wrong password counts before the next one is looked at.
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
    """The rounds of a hash of bcrypt; 0 for anything else."""
    found = None if stored is None else _BCRYPT(stored)
    return 0 if found is None else int(found[1])


def _matches(password: Password | None, stored: str | None, rounds: int) -> bool:
    """The answer, after the work of a check of `rounds` rounds, or of those of the hash if it has more."""
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
    """On Linux priority belongs to the thread: where cores are short, logins get less of them than the event loop.
    Not to be allowed that is no reason not to hash."""
    if sys.platform == "linux":
        thread = threading.get_native_id()
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + _NICE)
