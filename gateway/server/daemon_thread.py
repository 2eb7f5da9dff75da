"""Run long work in a thread that does not delay the exit of the process.

The threads of `asyncio.to_thread` and `concurrent.futures` are joined at exit. Compiling thousands of routes takes
seconds, and shutdown must not wait for it.
"""

from collections.abc import Callable
from concurrent.futures import Future
from threading import Thread
from typing import TypeVar

T = TypeVar("T")


def in_daemon_thread(work: Callable[[], T]) -> "Future[T]":
    """Start `work` in a daemon thread. The future cannot be cancelled."""
    future: Future[T] = Future()
    future.set_running_or_notify_cancel()

    def run() -> None:
        try:
            result = work()
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(result)

    Thread(target=run, daemon=True).start()
    return future
