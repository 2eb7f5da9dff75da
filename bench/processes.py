"""Server processes under measurement: pinned to a CPU, with exact CPU accounting, and always stopped.

CPU time is read from the kernel's clock of each process (`clock_getcpuclockid`), which counts all threads, including
finished ones, in nanoseconds. The 10 ms ticks of /proc/PID/stat are too coarse for windows of a second.
"""

import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import cycle, islice
from pathlib import Path

import psutil

STOP_SECONDS = 5.0
_FIRST_PORT = 10_000
_BLOCK = 700  # ports of a process
MIB = 1024 * 1024


class BenchError(Exception):
    """A peer or tool does not work as the comparison requires. The message is for the user."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident bytes of a process tree. `pss` counts shared pages once; 0 if unavailable."""

    rss: int
    pss: int


@contextlib.contextmanager
def pinned(cpus: frozenset[int] | None) -> Iterator[None]:
    """Run the block on these CPUs. Child processes inherit them. None leaves the choice to the kernel."""
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
    """A started server in its own process group, including its descendants."""

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
        """The memory of the process tree now."""
        infos = [psutil.Process(pid).memory_full_info() for pid in self.tree()]
        return Memory(sum(info.rss for info in infos), sum(getattr(info, "pss", 0) for info in infos))

    def alive(self) -> bool:
        return self.process.poll() is None

    def last_words(self, lines: int = 15) -> str:
        """The end of its output."""
        text = self.output.read_text(errors="replace") if self.output.exists() else ""
        return "\n".join(text.splitlines()[-lines:])

    def stop(self) -> None:
        """Stop the process group with SIGTERM, then SIGKILL."""
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
    """Start a server in `directory`, with its output in a file there."""
    output = directory / f"{name}.out"
    with pinned(cpus), output.open("ab") as sink:
        process = subprocess.Popen(
            list(command),
            cwd=directory,
            env={**clean_environment(), **environment},
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return Running(process, output)


def free_port() -> int:
    """A loopback port on which nothing listens, and which no other process of the tests or the benchmark gets.

    It is outside the range of outgoing connections. Otherwise one of them could take the port before its server starts,
    or while it restarts.
    """
    for port in islice(_ports(os.getpid()), _BLOCK):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise BenchError("no port is free")


@cache
def _ports(_process: int) -> Iterator[int]:
    """The ports of this process, endlessly.

    The process locks a block of ports until it ends. Gateways share a port without an error (SO_REUSEPORT), so two
    processes that choose the same port would mix the requests of two gateways.
    """
    folder = Path(tempfile.gettempdir()) / f"gateway-ports-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    for first in range(_FIRST_PORT, _first_of_connections() - _BLOCK + 1, _BLOCK):
        file = os.open(folder / str(first), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(file)
            continue
        return cycle(range(first, first + _BLOCK))  # the file stays open
    raise BenchError("no block of ports is free")


def _first_of_connections() -> int:
    """The first port of the range that the kernel uses for outgoing connections."""
    try:
        first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except OSError:
        first = 49_152  # as IANA recommends
    return max(first, _FIRST_PORT + _BLOCK)


def wait_for_port(running: Running, port: int, *, seconds: float = 20.0) -> float:
    """Wait until the port accepts connections; returns the seconds. Raises BenchError if the process ends or is
    late."""
    begun = time.perf_counter()
    while time.perf_counter() - begun < seconds:
        if not running.alive():
            raise BenchError(f"ended with code {running.process.returncode}:\n{running.last_words()}")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return time.perf_counter() - begun
        time.sleep(0.005)
    raise BenchError(f"did not listen within {seconds:g} s:\n{running.last_words()}")


def wait_until(check: Callable[[], bool], *, seconds: float = 20.0, every: float = 0.005) -> None:
    """Wait until the check succeeds. Raises BenchError if it is late."""
    end = time.monotonic() + seconds
    while not check():
        if time.monotonic() > end:
            raise BenchError(f"not ready within {seconds:g} s")
        time.sleep(every)


_LEFT_OUT = ("GATEWAY_", "GOMAXPROCS", "PYTHONDONTWRITEBYTECODE")


def clean_environment() -> dict[str, str]:
    """The environment without variables that would configure a server, or make each start compile its source.
    Installers compile packages."""
    return {name: value for name, value in os.environ.items() if not name.startswith(_LEFT_OUT)}


def _cpu_clock(pid: int) -> float:
    """CPU seconds of one process with all its threads."""
    if os.uname().sysname == "Linux":
        # The clock id as computed by clock_getcpuclockid(3) on Linux: all threads, scheduler time.
        return time.clock_gettime((~pid << 3) | 2)
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)
