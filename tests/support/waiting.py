"""Polling for conditions instead of sleeping, and time limits."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar, TypeVarTuple

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """The block must end within this many seconds."""
    started = time.monotonic()
    yield
    took = time.monotonic() - started
    assert took <= seconds, f"took {took:.3f} s instead of at most {seconds} s"


@contextmanager
def cpu_within(seconds: float) -> Iterator[None]:
    """The block uses at most this many seconds of this thread's CPU time, independent of the load of the machine."""
    started = time.thread_time()
    yield
    took = time.thread_time() - started
    assert took <= seconds, f"took {took:.3f} s of CPU instead of at most {seconds} s"


def eventually(
    look: Callable[[*Arguments], T], *arguments: *Arguments, timeout: float = 5.0, every: float = 0.005
) -> T:
    """Poll until the result is true and return it; fails after `timeout` seconds."""
    until = time.monotonic() + timeout
    while not (seen := look(*arguments)):
        if time.monotonic() > until:
            raise AssertionError(f"still {seen!r} after {timeout} s")
        time.sleep(every)
    return seen
