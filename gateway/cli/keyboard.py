"""Wait at a terminal for a time or for the key that ends a command.

This module changes the mode of the terminal and restores it in every case.
"""

import select
import termios
import time
import tty
from types import TracebackType
from typing import Any, Final, TextIO

_QUIT: Final = frozenset("qQ\x1b")


class Quit(Exception):
    """The user pressed a key that ends the command."""


class Keyboard:
    """Reads single keys without echo. If the input is not a terminal, `wait` only sleeps."""

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
        """Wait some seconds. Raises Quit when q or Escape is pressed."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if self._before is None:
                time.sleep(left)
            elif select.select([self._source], [], [], left)[0]:
                key = self._source.read(1)
                if key in _QUIT or not key:
                    raise Quit
