"""Polling for conditions instead of sleeping, and time limits."""

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar, TypeVarTuple

from tests.support.scale import WHOLE

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")


class SharedEvent:
    """An event that any thread sets and that any event loop awaits."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_set = False
        self._waiting: dict[asyncio.Event, asyncio.AbstractEventLoop] = {}

    def set(self) -> None:
        with self._lock:
            self._is_set = True
            for event, loop in self._waiting.items():
                loop.call_soon_threadsafe(event.set)

    async def wait(self) -> None:
        event = asyncio.Event()
        with self._lock:
            if self._is_set:
                return
            self._waiting[event] = asyncio.get_running_loop()
        try:
            await event.wait()
        finally:
            with self._lock:
                del self._waiting[event]


def promised(seconds: float) -> float:
    """The limit for a time that the gateway promises. Other tests delay a default run by up to a second."""
    return seconds if WHOLE else seconds + 1.0


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
    look: Callable[[*Arguments], T], *arguments: *Arguments, timeout: float = 5.0, every: float | None = None
) -> T:
    """Poll until the result is true and return it; fails after `timeout` seconds. Without `every`, pauses grow from 5
    to 50 ms, because most polls are requests, which take CPU time in two processes."""
    until = time.monotonic() + timeout
    pause = 0.005 if every is None else every
    while not (seen := look(*arguments)):
        if time.monotonic() > until:
            raise AssertionError(f"still {seen!r} after {timeout} s")
        time.sleep(pause)
        if every is None:
            pause = min(1.2 * pause, 0.05)
    return seen


async def until(
    condition: Callable[[*Arguments], object], *arguments: *Arguments, within: float = 5.0, every: float = 0.002
) -> float:
    """Like `eventually`, for tests in an event loop. Returns the seconds until the condition held."""
    started = time.monotonic()
    while not condition(*arguments):
        assert time.monotonic() - started < within, f"not so within {within} s"
        await asyncio.sleep(every)
    return time.monotonic() - started


def listens(address: tuple[str, int]) -> bool:
    """Whether a server accepts connections at this address."""
    try:
        socket.create_connection(address, timeout=1).close()
    except OSError:
        return False
    return True
