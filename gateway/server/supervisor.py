"""Several processes behind one listening socket: starts them, replaces one that dies, stops them together.

They are forked before anything runs in this process, so they share the configuration that was read once.
"""

import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Final

from gateway.operations.events import event

_STOP: Final = (signal.SIGTERM, signal.SIGINT)
_WATCHED: Final = (*_STOP, signal.SIGCHLD, signal.SIGHUP)
_UNUSABLE: Final = 2  # the exit code of a worker that cannot run here: another would not either
_PAUSE: Final = 1.0  # seconds between the deaths of workers and their replacement, so that a crash is no busy loop

Worker = Callable[[Callable[[], None]], int]


def supervise(worker: Worker, *, workers: int, ready: Callable[[], None], changed: Callable[[], bool]) -> int:
    """Keep `workers` processes running `worker` until SIGTERM or SIGINT. The highest exit code of the last ones.

    `ready` is called in the first worker once it serves. `changed` is asked on SIGHUP whether there is a new
    configuration; then every worker is sent the signal as well.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
    first = _fork(worker, ready)
    running = {first, *(_fork(worker, _nothing) for _ in range(workers - 1))}
    stopping, code = False, 0
    while running:
        received = signal.sigwait(_WATCHED)
        if received in _STOP:
            stopping = True
            _tell(running, signal.SIGTERM)
        elif received == signal.SIGHUP and changed():
            _tell(running, signal.SIGHUP)
        for pid, status in _ended():
            running.discard(pid)
            code = max(code, status) if stopping or status == _UNUSABLE else code
            if status == _UNUSABLE and not stopping:
                stopping = True
                _tell(running, signal.SIGTERM)
            elif not stopping:
                event("worker", "a worker ended; another takes its place", pid=pid, status=status)
                time.sleep(_PAUSE)
                running.add(_fork(worker, _nothing))
    return code


def _fork(worker: Worker, ready: Callable[[], None]) -> int:
    """A new process that runs `worker` and nothing else of this program."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _WATCHED)
        code = worker(ready)
    except Exception as error:
        # The frame of the command line is not in this process any more: say it in one line, as it would.
        event("worker", str(error))
        code = _UNUSABLE
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _ended() -> list[tuple[int, int]]:
    """The processes that have ended since the last call, with their exit codes (128 + signal where one ended them)."""
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


def _tell(pids: set[int], number: signal.Signals) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue  # it has ended by itself; waitpid will say so


def _nothing() -> None:
    pass
