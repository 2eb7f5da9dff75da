"""Writes log lines without blocking the process.

Standard output is usually a pipe or a socket, and a slow reader blocks the writer. Non-blocking mode is not an option,
because the flag belongs to the open file, which the shell and other workers share. Therefore as much as possible is
written at once in a way that cannot block, and a thread waits with the rest. (A thread for all writes would cost a
switch of the interpreter for each block, 1 to 3 µs per request.) The queue is bounded. Beyond the limit, lines are
dropped and counted, because a request that waits for its log line is worse than a missing line.
"""

import fcntl
import os
import select
import socket
import stat
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, suppress
from queue import SimpleQueue
from threading import Thread
from typing import Final


# Log files: standard output or standard error redirected to a regular file.
#
# Append mode allows another program to truncate the file (logrotate's `copytruncate`). Without it, the next record
# would go to the old offset after a gap of NUL bytes. A record truncated by a full disk is terminated before the next
# one, so that one record is lost instead of two.
def append_only(descriptor: int) -> None:
    """Set append mode for a regular file. Other workers share the open file and its flags."""
    with suppress(OSError):
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
            fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | os.O_APPEND)


def is_torn(descriptor: int, *, unknown: bool) -> bool:
    """Whether a regular file ends in the middle of a line; `unknown` if the file cannot be read."""
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or not found.st_size:
            return False
        # The descriptor is write-only. Opening the file again requires Linux and read permission.
        reading = os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return unknown
    try:
        return os.pread(reading, 1, max(os.fstat(reading).st_size - 1, 0)) != b"\n"
    finally:
        os.close(reading)


def appending(descriptor: int) -> Callable[[bytes], int]:
    """A function that writes a prefix of its argument to a regular file, and returns the number of bytes."""
    append_only(descriptor)
    has_failed = False

    def write(data: bytes) -> int:
        nonlocal has_failed
        try:
            if has_failed and is_torn(descriptor, unknown=True):
                os.write(descriptor, b"\n")
            has_failed = False
            return os.write(descriptor, data)
        except OSError:
            has_failed = True
            raise

    return write


LIMIT: Final = 8 * 1024 * 1024  # bytes in the queue
FAREWELL: Final = 2.0  # seconds that `close` waits for the queue
_CLOSED: Final = "standard output is closed"
_SLOW: Final = "the reader is too slow"

Write = Callable[[bytes], int]
"""Writes a prefix of its argument and returns the number of bytes. Raises OSError."""


class LogWriter:
    """Writes blocks of whole lines to a descriptor. Without a valid descriptor (no standard output), drops all.

    `losses` counts lost lines by reason: a full queue, or a failing descriptor (closed pipe, full disk). No method
    raises, and `write` returns at once.
    """

    def __init__(self, descriptor: int | None, *, limit: int = LIMIT) -> None:
        self._limit = limit
        self._descriptor = descriptor
        self._piece = sys.maxsize
        self._try: Write | None = None
        self._opened = ExitStack()
        if descriptor is not None:
            self._look_at(descriptor)
        self._queue: SimpleQueue[bytes | None] = SimpleQueue()
        self._thread: Thread | None = None
        self._closed = False
        self._given_up = False  # the descriptor's number can be reused from then on
        # Each counter is written by one thread only, so sums and differences need no lock.
        self._accepted_bytes = 0
        self._done_bytes = 0
        self._refused_lines: Counter[str] = Counter()
        self._lost_lines: Counter[str] = Counter()

    def _look_at(self, descriptor: int) -> None:
        try:
            mode = os.fstat(descriptor).st_mode
        except OSError:
            self._descriptor = None  # a connection could get this number next, and would receive log lines
        else:
            self._piece = _atomic_size(mode)
            self._try = _unblockable(descriptor, mode, self._opened)

    @property
    def dropped(self) -> int:
        """The number of lost lines."""
        return self.losses.total()

    @property
    def losses(self) -> Counter[str]:
        """The number of lost lines by reason."""
        # Copying is atomic, while an iteration would fail if the thread added a reason.
        return self._refused_lines + self._lost_lines.copy()

    def write(self, block: bytes) -> None:
        """Write a block of lines, or queue it, or drop it. A block is never dropped for its size alone."""
        if self._descriptor is None or self._closed:
            self._refused_lines[_CLOSED] += block.count(b"\n")
            return
        waiting = self._accepted_bytes - self._done_bytes
        if self._try is not None and not waiting:
            block = block[_write(self._try, block, self._piece, self._refused_lines) :]
        if waiting and waiting + len(block) > self._limit:
            self._refused_lines[_SLOW] += block.count(b"\n")
        elif block:
            self._hand_over(block, self._descriptor)

    def _hand_over(self, block: bytes, descriptor: int) -> None:
        if self._thread is None:
            # Started on demand, because a process forked after __init__ would not inherit the thread.
            self._thread = Thread(target=self._work, args=(descriptor,), name="access-log", daemon=True)
            self._thread.start()
        self._accepted_bytes += len(block)
        self._queue.put(block)

    def close(self, timeout: float = FAREWELL) -> None:
        """Wait at most `timeout` seconds until everything is written. The rest is lost."""
        self._closed = True
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join(timeout)
        self._given_up = True
        self._opened.close()

    def _work(self, descriptor: int) -> None:
        def write(data: bytes) -> int:
            return _patient_write(descriptor, data)

        while (block := self._queue.get()) is not None:
            if self._given_up:
                self._lost_lines[_SLOW] += block.count(b"\n")
            else:
                _write(write, block, self._piece, self._lost_lines)
            self._done_bytes += len(block)


def _write(write: Write, block: bytes, piece: int, lost: Counter[str]) -> int:
    """Write a block in pieces of whole lines until `write` would block.

    Returns the number of processed bytes. Lost lines among them are counted in `lost` by reason.
    """
    start = 0
    try:
        while start < len(block):
            end = _end_of_piece(block, start, piece)
            while start < end:
                start += write(block[start:end])
    except BlockingIOError:
        return start
    except OSError as error:
        lost[error.strerror or type(error).__name__] += block.count(b"\n", start)
        return len(block)
    return start


def _end_of_piece(block: bytes, start: int, piece: int) -> int:
    """The end of the piece that starts at `start`: as many whole lines as fit, or one that does not fit."""
    if len(block) - start <= piece:
        return len(block)
    return (block.rfind(b"\n", start, start + piece) + 1) or (block.find(b"\n", start + piece) + 1) or len(block)


def _atomic_size(mode: int) -> int:
    """The maximum size of a write that other processes cannot interleave with.

    Workers share standard output. Writes to a pipe are atomic up to PIPE_BUF (POSIX write(2)); the kernel locks a file
    for each write.
    """
    return select.PIPE_BUF if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) else sys.maxsize


def _patient_write(descriptor: int, data: bytes) -> int:
    try:
        return os.write(descriptor, data)
    except BlockingIOError:
        # Another process that shares the open file has made it non-blocking, so wait here as the kernel would.
        poll = select.poll()
        poll.register(descriptor, select.POLLOUT)
        poll.poll()
        return 0


def _unblockable(descriptor: int, mode: int, opened: ExitStack) -> Write | None:
    """A way to write to the descriptor that never blocks and does not change its flags; None if impossible.

    For a socket, each call has a flag. A pipe is opened again: the new open file has its own flag (Linux; fails for a
    pipe of another user). Files and /dev/null have no reader. A terminal can be paused with Ctrl-S, so the thread
    writes to it.
    """
    if stat.S_ISSOCK(mode):
        connection = opened.enter_context(socket.socket(fileno=os.dup(descriptor)))
        return lambda data: connection.send(data, socket.MSG_DONTWAIT)
    if stat.S_ISFIFO(mode):
        try:
            own = os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return None
        opened.callback(os.close, own)
        return lambda data: os.write(own, data)
    if stat.S_ISREG(mode):
        return appending(descriptor)
    if stat.S_ISCHR(mode) and not os.isatty(descriptor):
        return lambda data: os.write(descriptor, data)
    return None
