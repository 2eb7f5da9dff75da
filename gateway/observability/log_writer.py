"""Gets log lines out of the process without ever holding it up.

Standard output is mostly a pipe or a socket, and one whose reader is slow blocks whoever writes to it. Setting it
non-blocking is no way out: that flag belongs to the open file, which the shell and the other worker processes share.
So what can be written at once is written at once, by a way that cannot block; the rest is left to a thread, and only
that thread waits. (A thread for all of it would cost a hand-over of the interpreter for each block: 1 to 3 µs for
each request.) What waits is bounded: beyond the limit lines are dropped and counted, because a request that waits for
its log line is worse than a line that is missing.
"""

import os
import select
import socket
import stat
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from queue import SimpleQueue
from threading import Thread
from typing import Final

from gateway.observability.log_files import appending

LIMIT: Final = 8 * 1024 * 1024  # bytes that may wait to be written
FAREWELL: Final = 2.0  # seconds that `close` waits for the rest to be written
_CLOSED: Final = "standard output is closed"
_SLOW: Final = "the reader is too slow"

Write = Callable[[bytes], int]
"""Writes the beginning of what it is given and answers how many bytes that was; raises OSError if it cannot."""


class LogWriter:
    """Writes blocks of whole lines to a file descriptor; None or a closed one (there is no standard output) drops all.

    `losses` counts the lines that were lost by the reason: a full queue, or a descriptor that takes no more (closed
    pipe, full disk). Nothing here raises, and `write` returns at once.
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
        self._given_up = False  # by now the descriptor may be somebody else's: its number is free to be used again
        # Each of these is written by one thread only; their sums and differences need no lock.
        self._accepted_bytes = 0
        self._done_bytes = 0
        self._refused_lines: Counter[str] = Counter()
        self._lost_lines: Counter[str] = Counter()

    def _look_at(self, descriptor: int) -> None:
        try:
            mode = os.fstat(descriptor).st_mode
        except OSError:
            self._descriptor = None  # a connection may get this number next, and log lines are not for callers
        else:
            self._piece = _atomic_size(mode)
            self._try = _unblockable(descriptor, mode, self._opened)

    @property
    def dropped(self) -> int:
        """Lines that were lost so far."""
        return self.losses.total()

    @property
    def losses(self) -> Counter[str]:
        """Lines that were lost so far, by the reason."""
        # A copy is atomic, while an iteration fails if the thread adds a reason meanwhile.
        return self._refused_lines + self._lost_lines.copy()

    def write(self, block: bytes) -> None:
        """Write a block of lines, or leave it to the thread, or drop it. No block is dropped for its own size."""
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
            # Only now: a process that is forked after this object was made would not inherit the thread.
            self._thread = Thread(target=self._work, args=(descriptor,), name="access-log", daemon=True)
            self._thread.start()
        self._accepted_bytes += len(block)
        self._queue.put(block)

    def close(self, timeout: float = FAREWELL) -> None:
        """Wait at most `timeout` seconds until everything is written. A reader that stands still loses the rest."""
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
    """Write a block in pieces of whole lines, until `write` would have to wait.

    Returns how many bytes are done. Lines of them that are lost are counted in `lost`, by the reason.
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
    """Where the piece that begins at `start` ends: after as many whole lines as fit, or after one that does not."""
    if len(block) - start <= piece:
        return len(block)
    return (block.rfind(b"\n", start, start + piece) + 1) or (block.find(b"\n", start + piece) + 1) or len(block)


def _atomic_size(mode: int) -> int:
    """The most bytes of one write that no other process can come in between.

    Worker processes share standard output. Writes to a pipe are whole up to PIPE_BUF (POSIX write(2)) and may be
    mingled beyond; a file is locked by the kernel for each write.
    """
    return select.PIPE_BUF if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) else sys.maxsize


def _patient_write(descriptor: int, data: bytes) -> int:
    try:
        return os.write(descriptor, data)
    except BlockingIOError:
        # Somebody who shares the open file has made it non-blocking: wait here for what the kernel would wait for.
        poll = select.poll()
        poll.register(descriptor, select.POLLOUT)
        poll.poll()
        return 0


def _unblockable(descriptor: int, mode: int, opened: ExitStack) -> Write | None:
    """A way to write to the descriptor that never waits for a reader, and leaves its flags alone; None: there is none.

    A socket is told so with each call. A pipe is opened a second time: the new open file is ours alone, so its flag
    is too (Linux; a pipe that belongs to another user cannot be opened). Files and /dev/null have no reader. A
    terminal is held by whoever presses Ctrl-S, so it is left to the thread.
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
