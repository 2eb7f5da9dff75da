"""Server processes under measurement: started pinned to a CPU, accounted to the nanosecond, always stopped.

CPU time is read from the kernel's clock of each process (`clock_getcpuclockid`), which counts all of its
threads, those that have ended included, in nanoseconds. The 10 ms ticks of /proc/PID/stat would be too
coarse for windows of a second.
"""

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

STOP_SECONDS = 5.0
MIB = 1024 * 1024


class BenchError(Exception):
    """A peer or a tool did not do what the comparison needs; the message is for the person who runs it."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident bytes of a process tree; `pss` counts shared pages once, 0 where the kernel does not say."""

    rss: int
    pss: int


@contextlib.contextmanager
def pinned(cpus: frozenset[int] | None) -> Iterator[None]:
    """Run the body on these CPUs; what it starts inherits them. None leaves the choice to the kernel."""
    if cpus is None or not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class Running:
    """A started server in a process group of its own; its descendants count as part of it."""

    def __init__(self, process: "subprocess.Popen[bytes]", output: Path) -> None:
        self.process = process
        self.output = output

    def tree(self) -> list[int]:
        """The ids of the process and of all its descendants."""
        try:
            root = psutil.Process(self.process.pid)
            return [root.pid, *sorted(child.pid for child in root.children(recursive=True))]
        except psutil.NoSuchProcess as gone:
            raise BenchError(f"ended by itself; its last words:\n{self.last_words()}") from gone

    def cpu_seconds(self) -> dict[int, float]:
        """CPU seconds used so far, by process id."""
        return {pid: _cpu_clock(pid) for pid in self.tree()}

    def memory(self) -> Memory:
        """What the tree holds in memory now."""
        infos = [psutil.Process(pid).memory_full_info() for pid in self.tree()]
        return Memory(sum(info.rss for info in infos), sum(getattr(info, "pss", 0) for info in infos))

    def alive(self) -> bool:
        return self.process.poll() is None

    def last_words(self, lines: int = 15) -> str:
        """The end of what it printed."""
        text = self.output.read_text(errors="replace") if self.output.exists() else ""
        return "\n".join(text.splitlines()[-lines:])

    def stop(self) -> None:
        """End the whole group: politely, then not."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_SECONDS)
                break
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)


def start(
    command: Sequence[str],
    *,
    cpus: frozenset[int] | None,
    environment: Mapping[str, str],
    directory: Path,
    name: str,
) -> Running:
    """Start a server in `directory`, its output in a file there."""
    output = directory / f"{name}.out"
    with pinned(cpus), output.open("ab") as sink:
        process = subprocess.Popen(
            list(command),
            cwd=directory,
            env={**_clean_environment(), **environment},
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return Running(process, output)


def free_port() -> int:
    """A loopback port that nothing listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for_port(running: Running, port: int, *, seconds: float = 20.0) -> float:
    """Wait until something accepts on the port; seconds waited. Raises BenchError if it ends or is late."""
    begun = time.perf_counter()
    while time.perf_counter() - begun < seconds:
        if not running.alive():
            raise BenchError(f"ended with code {running.process.returncode}:\n{running.last_words()}")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return time.perf_counter() - begun
        time.sleep(0.005)
    raise BenchError(f"did not listen within {seconds:g} s:\n{running.last_words()}")


def _clean_environment() -> dict[str, str]:
    """The environment without what would configure the gateway behind the benchmark's back."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("GATEWAY_", "GOMAXPROCS"))}


def _cpu_clock(pid: int) -> float:
    """CPU seconds of one process with all its threads."""
    if os.uname().sysname == "Linux":
        # The id that clock_getcpuclockid(3) makes on Linux: all threads of the process, scheduler time.
        return time.clock_gettime((~pid << 3) | 2)
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)
