"""Waits at a terminal for a time to pass or for the key that ends a command.

Apart from the live view because it changes the terminal, and has to put it back whatever happens.
"""

import select
import termios
import time
import tty
from types import TracebackType
from typing import Any, Final, TextIO

_QUIT: Final = frozenset("qQ\x1b")


class Quit(Exception):
    """The key that ends the command was pressed."""


class Keyboard:
    """Reads single keys without echo. Where the input is no terminal, only time passes."""

    def __init__(self, source: TextIO) -> None:
        self._source = source
        self._before: list[Any] | None = None

    def __enter__(self) -> "Keyboard":
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
        """Let some seconds pass. Raises Quit as soon as q or Escape is pressed."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if self._before is None:
                time.sleep(left)
            elif select.select([self._source], [], [], left)[0]:
                key = self._source.read(1)
                if key in _QUIT or not key:
                    raise Quit
