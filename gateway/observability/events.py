"""Events of the gateway itself, on standard error: start, degraded stores, rejected reloads, failures.

An event is one line, on a terminal and in a log:

    gateway: degraded: Redis does not answer; the database is asked instead store=redis at=2026-01-31T08:15:00.250Z

On a terminal, the time is left out. Tracebacks take more lines, which are indented, so a line that starts with
`gateway:` is always an event. Untrusted values are escaped. Text that looks like a credential is masked, because
exceptions of other libraries can contain some.
"""

import asyncio
import contextlib
import logging
import os
import re
import select
import sys
import time
from collections import deque
from collections.abc import Callable, Hashable
from traceback import TracebackException, walk_tb
from types import TracebackType
from typing import Any, Final

from gateway.observability.access_log import timestamp
from gateway.observability.escaping import CREDENTIAL, printable, visible
from gateway.observability.log_writer import is_torn

INTERVAL: Final = 60.0  # seconds between two reports of the same failure
REMEMBERED: Final = 256  # distinct failures within that time
FRAMES: Final = 32  # of a traceback, for distinguishing exceptions
TRACEBACK_LINES: Final = 80
KEY_LENGTH: Final = 256  # characters; upstreams control parts of some reasons
MAX_TEXT: Final = 4096  # characters of one message or fact
MAX_TRACEBACK_LINE: Final = 1000
_FURTHER: Final = object()  # the common key of all further failures
PATIENCE: Final = 20  # milliseconds that one write to standard error waits for its reader

_SECRET: Final = re.compile(
    CREDENTIAL + r"|(?<=://)[^\s/]*(?=@)"  # user and password of a URL
    r"|(?<=bearer )[^\s\"',]{16,}"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END|\Z)",
    re.DOTALL | re.IGNORECASE,
)


def event(kind: str, message: str, /, **facts: object) -> bool:
    """Write an event to standard error. Facts follow as `name=value`, except those that are None.

    Never raises, and waits at most PATIENCE for a slow reader. Returns False if the event is lost.
    """
    return _say(_line(kind, message, facts))


def _line(kind: str, message: str, facts: dict[str, object]) -> str:
    if not _on_terminal():
        facts["at"] = timestamp(time.time())
    given = {name: _scrubbed(str(value)) for name, value in facts.items() if value is not None}
    text = "".join(f" {name}={visible(value)}" for name, value in given.items())
    return f"gateway: {kind}: {printable(_scrubbed(message))}{text}\n"


def _scrubbed(text: str) -> str:
    return _SECRET.sub("[secret]", text)[:MAX_TEXT]


class RateLimitedLog:
    """Limits repeated messages to one per INTERVAL for each key.

    At most REMEMBERED keys are distinguished. Further keys share one, so they are limited but not hidden. Texts are
    distinguished by their first KEY_LENGTH characters. `clock` returns seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last: dict[Hashable, tuple[float, int]] = {}  # key -> time of the last message, suppressed ones since

    def admit(self, key: Hashable) -> int | None:
        """None if the message is suppressed. Otherwise the number of messages suppressed since the last one."""
        now = self._clock()
        if isinstance(key, str):
            key = key[:KEY_LENGTH]
        if key not in self._last and not self._has_room(now):
            key = _FURTHER
        last = self._last.get(key)
        if last is not None and now - last[0] < INTERVAL:
            self._last[key] = (last[0], last[1] + 1)
            return None
        self._last[key] = (now, 0)
        return last[1] if last is not None else 0

    def _has_room(self, now: float) -> bool:
        if len(self._last) >= REMEMBERED:
            self._last = {key: last for key, last in self._last.items() if now - last[0] < INTERVAL}
        return len(self._last) < REMEMBERED


class FailureCounter:
    """Reports unexpected exceptions with their traceback, each at most once a minute.

    Two exceptions are equal if they have the same type and pass through the same source lines.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._repeats = RateLimitedLog(clock)

    def report(self, error: BaseException, doing: str, **facts: object) -> None:
        """`doing` describes the failed activity: `deciding on a request`."""
        before = self._repeats.admit((type(error), _lines(error.__traceback__)))
        if before is None:
            return
        facts = {**facts, "error": type(error).__name__, "repeated": before or None}
        _say(_line("failure", doing, facts) + _traceback(error))

    def on_loop_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """A handler for `loop.set_exception_handler`, for exceptions that no callback or task has caught."""
        message, error = str(context.get("message", "the event loop failed")), context.get("exception")
        if isinstance(error, BaseException):
            self.report(error, message)
        elif self._repeats.admit(message) is not None:
            event("failure", message)


class EventHandler(logging.Handler):
    """Turns log records of libraries, and of packages of the gateway that cannot import this one, into events.

    Exceptions are reported like other failures. Messages of the gateway are limited by their text, which names the
    cause: the issuer, the target, the database error. A text with changing figures passes its cause as `extra={"cause":
    …}`. Each place in the source has its own limit, so that no place can exhaust that of another.
    """

    def __init__(self, failures: FailureCounter, level: int = logging.WARNING) -> None:
        super().__init__(level)
        self._failures = failures
        self._repeats: dict[tuple[str, int], RateLimitedLog] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Never raises. A message that cannot be formatted is written without its arguments."""
        try:
            message = record.getMessage()
        except Exception:
            message = str(record.msg)
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            self._failures.report(error, message, logger=record.name)
            return
        repeats = self._repeats.setdefault((record.name, record.lineno), RateLimitedLog())
        before = repeats.admit(_cause(record, message))
        if before is not None:
            event(record.levelname.lower(), message, logger=record.name, repeated=before or None)


def _cause(record: logging.LogRecord, message: str) -> str:
    """The key of a message. Messages of libraries contain figures and addresses, so their format string is used."""
    if record.name.partition(".")[0] != "gateway":
        return str(record.msg)
    return str(getattr(record, "cause", message))


def _lines(traceback: TracebackType | None) -> tuple[tuple[str, int], ...]:
    """The last source lines through which an exception passed."""
    last = deque(((frame.f_code.co_filename, line) for frame, line in walk_tb(traceback)), maxlen=FRAMES)
    return tuple(last)


def _traceback(error: BaseException) -> str:
    text = "".join(TracebackException.from_exception(error).format())
    lines = _SECRET.sub("[secret]", text).splitlines()
    if len(lines) > TRACEBACK_LINES:
        # The first lines show the origin, the last ones the error.
        lines[TRACEBACK_LINES // 2 : -TRACEBACK_LINES // 2] = ["…"]
    return "".join(f"    {printable(line[:MAX_TRACEBACK_LINE])}\n" for line in lines)


def _on_terminal() -> bool:
    try:
        return sys.stderr.isatty()
    except (AttributeError, ValueError):  # None, or closed
        return False


def _say(text: str) -> bool:
    """Write a text to standard error; returns whether all of it was written."""
    try:
        descriptor = sys.stderr.fileno()
    except (AttributeError, ValueError, OSError):  # None, closed, or an object that captures the output
        with contextlib.suppress(Exception):
            sys.stderr.write(text)
        return True
    data = text.encode("utf-8")
    return _write_patiently(descriptor, b"\n" + data if is_torn(descriptor, unknown=False) else data)


def _write_patiently(descriptor: int, data: bytes) -> bool:
    """Write while the reader reads. A pipe that polls as writable accepts PIPE_BUF bytes without blocking."""
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    try:
        while data and poll.poll(PATIENCE):
            data = data[os.write(descriptor, data[: select.PIPE_BUF]) :]
    except OSError:
        return False
    return not data
