"""Several processes on one listening socket: starts them, replaces dead ones, and stops them together.

They are forked before any other work in this process, so they share the configuration that was read once. Each reports
through a pipe when it serves. This process passes its signals on to each of them. The workers ignore Ctrl-C, which a
terminal sends to all processes, and a second SIGTERM, which arrives when a service manager stops the whole group.
SIGQUIT tells them to stop without waiting.
"""

import os
import select
import signal
import struct
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from threading import Thread
from typing import Final, NamedTuple, TypeVar

from gateway.observability.events import event
from gateway.policy.loader import Configuration

T = TypeVar("T")


# Run long work in a thread that does not delay the exit of the process.
#
# The threads of `asyncio.to_thread` and `concurrent.futures` are joined at exit. Compiling thousands of routes takes
# seconds, and shutdown must not wait for it.
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


_STOP: Final = (signal.SIGTERM, signal.SIGINT)
_WATCHED: Final = (*_STOP, signal.SIGCHLD, signal.SIGHUP)
UNUSABLE: Final = 2  # the exit code of a worker that cannot run here
_LOOK: Final = 0.25  # seconds between two calls of `watch`
_PAUSE: Final = (
    1.0  # seconds between the death of a worker and its replacement, so that a crash does not cause a busy loop
)
KILL_AFTER: Final = 5.0  # seconds after the drain, after which a worker that still runs is killed
_PID: Final = struct.Struct("i")

Worker = Callable[[Callable[[], None], int], int]


class SupervisorHooks(NamedTuple):
    """The callbacks of the supervising process.

    `ready` is called when the first worker serves. `load` runs in a thread on SIGHUP; `loaded` gets its result and
    returns whether the workers need a SIGHUP. `stopping` is called before the workers get the signal to stop, and
    returns the seconds that they have. `ended` is called with the slot of a worker that has ended. `watch` is called at
    intervals and returns whether to act as on SIGHUP.
    """

    ready: Callable[[], None]
    ended: Callable[[int], None]
    load: Callable[[], Configuration]
    loaded: Callable[[Future[Configuration]], bool]
    stopping: Callable[[], float]
    watch: Callable[[], bool] | None = None


def supervise(worker: Worker, *, workers: int, hooks: SupervisorHooks) -> int:
    """Keep `workers` processes running `worker` until SIGTERM or SIGINT. `worker` gets a function to call once it
    serves, and its slot: a number from 0, unique among the running workers.

    Return 0 if all workers ended normally, 2 if one of the first could not start, otherwise 1.
    """
    with _signals() as (inbox, wake):
        return _Supervisor(worker, hooks, inbox, wake).run(workers)


class _Supervisor:
    def __init__(self, worker: Worker, hooks: SupervisorHooks, inbox: int, wake: int) -> None:
        self._worker = worker
        self._hooks = hooks
        self._inbox = inbox
        self._wake = wake
        self._ready_pipe, self._ready_pipe_end = os.pipe()
        os.set_blocking(self._ready_pipe, False)
        self._running: dict[int, int] = {}  # pid to slot
        self._starting: set[int] = set()  # first workers that have not served yet
        self._due: list[tuple[float, int]] = []  # the times and slots of replacements for dead workers
        self._is_behind = False  # a reload is pending
        self._loading: Future[Configuration] | None = None
        self._served = False
        self._kill_at: float | None = None  # the time limit of stopping workers; None: no worker is stopping
        self._code = 0

    def run(self, workers: int) -> int:
        for slot in range(workers):
            self._fork(slot)
        self._starting |= self._running.keys()
        while self._running or self._due:
            self._handle_signals(self._await_signals())
            if self._hooks.watch is not None and self._hooks.watch():
                self._is_behind = True
            self._reload()
            self._read_ready_pipe()
            for pid, status in _ended():
                self._reap(pid, status)
            self._replace()
            self._kill_overdue()
        return self._code

    # ---- events

    def _await_signals(self) -> bytes:
        until = [] if self._loading is not None else [due for due, _ in self._due]
        if self._kill_at is not None:
            until.append(self._kill_at)
        if self._hooks.watch is not None:
            until.append(time.monotonic() + _LOOK)
        timeout = max(0.0, min(until) - time.monotonic()) if until else None
        select.select([self._inbox, self._ready_pipe], [], [], timeout)
        with suppress(BlockingIOError):
            return os.read(self._inbox, 4096)
        return b""

    def _handle_signals(self, numbers: bytes) -> None:
        """Act on signals. A stop takes precedence, and any number of SIGHUPs is one reload."""
        for _ in [number for number in numbers if number in _STOP]:
            if self._kill_at is None:
                self._stop()
            else:  # the second signal stops without waiting
                self._signal_workers(signal.SIGQUIT)
        self._is_behind = self._is_behind or signal.SIGHUP in numbers

    def _read_ready_pipe(self) -> None:
        with suppress(BlockingIOError):
            while pid := os.read(self._ready_pipe, _PID.size):
                self._starting.discard(_PID.unpack(pid)[0])
                if not self._served:
                    self._served = True
                    self._hooks.ready()

    def _reap(self, pid: int, status: int) -> None:
        slot = self._running.pop(pid, None)
        if slot is None:
            return  # not a worker
        self._hooks.ended(slot)
        if self._kill_at is not None:
            self._code = max(self._code, min(status, 1))
        elif status == UNUSABLE and pid in self._starting:
            self._code = UNUSABLE
            self._stop()
        else:
            event("worker", "a worker ended; another takes its place", pid=pid, status=status)
            self._due.append((time.monotonic() + _PAUSE, slot))

    # ---- actions

    def _replace(self) -> None:
        if self._loading is not None:
            return  # a process forked now would inherit the locks of the thread
        now = time.monotonic()
        for due, slot in [each for each in self._due if each[0] <= now]:
            self._due.remove((due, slot))
            self._fork(slot)

    def _reload(self) -> None:
        if self._kill_at is not None:
            return
        if self._loading is not None and self._loading.done():
            loaded, self._loading = self._loading, None
            if self._hooks.loaded(loaded):
                self._signal_workers(signal.SIGHUP)
        if self._is_behind and self._loading is None:
            self._is_behind = False
            self._loading = in_daemon_thread(self._hooks.load)
            self._loading.add_done_callback(lambda _: _write(self._wake, b"\0"))

    def _stop(self) -> None:
        self._due.clear()
        self._kill_at = time.monotonic() + self._hooks.stopping() + KILL_AFTER
        self._signal_workers(signal.SIGTERM)

    def _kill_overdue(self) -> None:
        if self._kill_at is not None and time.monotonic() >= self._kill_at and self._running:
            event("worker", "workers did not end in time and were killed", count=len(self._running))
            self._code = max(self._code, 1)
            self._kill_at += KILL_AFTER
            self._signal_workers(signal.SIGKILL)

    def _signal_workers(self, number: signal.Signals) -> None:
        for pid in self._running:
            with suppress(ProcessLookupError):  # the worker has ended, and waitpid reports it
                os.kill(pid, number)

    def _fork(self, slot: int) -> None:
        """Fork a process that runs only the worker.

        Signals are blocked in it until the worker installs its handlers: an early signal must neither end it nor be
        lost.
        """
        sys.stdout.flush()
        sys.stderr.flush()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
        pid = os.fork()
        if pid:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            self._running[pid] = slot
            return
        code = 1
        try:
            code = self._work(slot)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def _work(self, slot: int) -> int:
        """Run the worker in the new process, and return its exit code."""
        signal.set_wakeup_fd(-1)
        for number in _WATCHED:
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        os.close(self._ready_pipe)
        try:
            return self._worker(lambda: _write(self._ready_pipe_end, _PID.pack(os.getpid())), slot)
        except Exception as error:
            # The frame of the command line is not in this process, so log the error in one line here.
            event("worker", str(error) or type(error).__name__)
            return UNUSABLE


@contextmanager
def _signals() -> Iterator[tuple[int, int]]:
    """Install handlers, so that each watched signal can be read as one byte from the first descriptor. Bytes written to
    the second descriptor arrive there too."""
    reading, writing = os.pipe()
    for end in (reading, writing):
        os.set_blocking(end, False)
    handlers = {number: signal.signal(number, _noted) for number in _WATCHED}
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    mask = signal.pthread_sigmask(signal.SIG_UNBLOCK, _WATCHED)
    try:
        yield reading, writing
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.set_wakeup_fd(before)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        os.close(reading)
        os.close(writing)


def _noted(*_: object) -> None:
    """Do nothing, because the byte of the signal has been written."""


def _write(descriptor: int, data: bytes) -> None:
    with suppress(OSError):  # the supervisor is gone, which the worker notices itself
        os.write(descriptor, data)


def _ended() -> list[tuple[int, int]]:
    """Return the processes that have ended since the last call, with their exit codes (128 + signal after a signal)."""
    ended: list[tuple[int, int]] = []
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if pid == 0:
            return ended
        code = os.waitstatus_to_exitcode(status)
        ended.append((pid, code if code >= 0 else 128 - code))
