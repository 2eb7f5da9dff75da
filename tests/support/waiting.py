"""Conditions that are polled instead of slept for, and bounds on how long something may take."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar, TypeVarTuple

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """The block must end in that many seconds."""
    started = time.monotonic()
    yield
    took = time.monotonic() - started
    assert took <= seconds, f"took {took:.3f} s instead of at most {seconds} s"


@contextmanager
def cpu_within(seconds: float) -> Iterator[None]:
    """The block takes at most that many seconds of this thread's CPU time, however busy the machine is."""
    started = time.thread_time()
    yield
    took = time.thread_time() - started
    assert took <= seconds, f"took {took:.3f} s of CPU instead of at most {seconds} s"


def eventually(
    look: Callable[[*Arguments], T], *arguments: *Arguments, timeout: float = 5.0, every: float = 0.005
) -> T:
    """Look until what is seen is true and give it back; after `timeout` seconds that is a failure."""
    until = time.monotonic() + timeout
    while not (seen := look(*arguments)):
        if time.monotonic() > until:
            raise AssertionError(f"still {seen!r} after {timeout} s")
        time.sleep(every)
    return seen
