"""Wait at a terminal for a time, a result, or the key that ends a command.

This module changes the mode of the terminal and restores it in every case, also after SIGTERM.
"""

import os
import select
import signal
import termios
import time
import tty
from collections.abc import Callable
from concurrent.futures import Future
from threading import Thread
from types import FrameType, TracebackType
from typing import Any, Final, TextIO, TypeVar

import click

T = TypeVar("T")

_QUIT: Final = frozenset(b"qQ")
_ESCAPE: Final = b"\x1b"  # alone it is the key; arrow and function keys send it with further bytes
_AT_ONCE: Final = 1024  # bytes
_TURN: Final = 0.05  # seconds between two looks at a result


class Quit(Exception):
    """The user pressed a key that ends the command."""


class Keyboard:
    """Reads single keys without echo. If the input is not a terminal, `wait` only sleeps."""

    def __init__(self, source: TextIO) -> None:
        self._source = source
        self._before: list[Any] | None = None

    def __enter__(self) -> "Keyboard":
        signal.signal(signal.SIGTERM, _exit)
        if self._source.isatty():
            self._before = termios.tcgetattr(self._source)
            tty.setcbreak(self._source)  # Ctrl-C still interrupts
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._before is not None:
            termios.tcsetattr(self._source, termios.TCSADRAIN, self._before)

    def wait(self, seconds: float) -> None:
        """Wait some seconds. Raises Quit when q or Escape is pressed."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if self._before is None:
                time.sleep(left)
            elif select.select([self._source], [], [], left)[0]:
                # `read` of the stream would buffer further keys, which `select` does not see.
                keys = os.read(self._source.fileno(), _AT_ONCE)
                if keys in (b"", _ESCAPE) or _QUIT.intersection(keys):
                    raise Quit

    def wait_for(self, work: Callable[[], T]) -> T:
        """Run `work` in a thread and return its result. Raises Quit, without waiting for the thread, when q or Escape
        is pressed."""
        result: Future[T] = Future()
        Thread(target=_run, args=(work, result), daemon=True).start()
        while not result.done():
            self.wait(_TURN)
        return result.result()


def _run(work: Callable[[], T], result: "Future[T]") -> None:
    try:
        result.set_result(work())
    except Exception as error:
        result.set_exception(error)


def _exit(number: int, _frame: FrameType | None) -> None:
    raise click.exceptions.Exit(128 + number)
