"""The cost of starting and idling: time until the first answer, memory and CPU when idle."""

import contextlib
import http.client
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench.peers.gateway import connection
from bench.peers.peer import ITEM, ROOT, Peer, Place
from bench.processes import MIB, BenchError, Running, clean_environment, free_port, pinned
from bench.rounds import Environment, Tell

ANSWER_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Patience:
    """The number of timed starts, seconds before memory is read, and seconds of watching an idle process."""

    times: int = 5
    settle: float = 5.0
    idle: float = 10.0


def help_ms(cpus: frozenset[int] | None, directory: Path, times: int = 7) -> float:
    """The median milliseconds of `gateway --help`, after one run that warms the caches."""
    took = []
    for _ in range(times + 1):
        begun = time.perf_counter()
        with pinned(cpus):
            done = subprocess.run(
                [sys.executable, "-m", "gateway", "--help"],
                cwd=directory,
                env={**clean_environment(), "PYTHONPATH": str(ROOT)},
                capture_output=True,
                timeout=60,
                check=False,
            )
        took.append((time.perf_counter() - begun) * 1e3)
        if done.returncode != 0:
            raise BenchError(f"gateway --help ended with {done.returncode}: {done.stderr[-300:]!r}")
    return median(took[1:])


def first_answer(environment: Environment, peer: Peer, times: int) -> tuple[float, float]:
    """Median milliseconds, and CPU milliseconds, from the start to the first answer on a proxied path, with any status.
    The first start is not counted, because it creates the database and keys."""
    place = environment.place(peer)
    took, used = [], []
    for _ in range(times + 1):
        begun = time.perf_counter()
        running = environment.begin(peer, place)
        try:
            _wait_for_answer(running, place)
            took.append((time.perf_counter() - begun) * 1e3)
            used.append(sum(running.cpu_seconds().values()) * 1e3)
        finally:
            running.stop()
        place = Place(place.directory, free_port(), place.upstream_port, place.signer)
    return median(took[1:]), median(used[1:])


def idle(environment: Environment, peers: Sequence[Peer], patience: Patience) -> dict[str, float]:
    """Memory and CPU of all peers when idle, running side by side, after one answer each."""
    figures: dict[str, float] = {}
    with ExitStack() as stack:
        running = {peer.name: _begin(environment, peer, stack) for peer in peers}
        time.sleep(patience.settle)
        for name, process in running.items():
            memory = process.memory()
            figures[f"{name}.idle_rss_mib"] = round(memory.rss / MIB, 1)
            figures[f"{name}.idle_pss_mib"] = round(memory.pss / MIB, 1)
        before = {name: sum(process.cpu_seconds().values()) for name, process in running.items()}
        time.sleep(patience.idle)
        for name, process in running.items():
            used = sum(process.cpu_seconds().values()) - before[name]
            figures[f"{name}.idle_cpu_ms_per_s"] = round(used / patience.idle * 1e3, 2)
    return figures


def measure(environment: Environment, peers: Sequence[Peer], *, patience: Patience, tell: Tell) -> dict[str, float]:
    """All figures of this module by `peer.figure`. Failures are reported and left out."""
    figures: dict[str, float] = {}
    answering = []
    for peer in peers:
        try:
            took, used = first_answer(environment, peer, patience.times)
        except BenchError as failure:
            tell(f"  {peer.name}: {failure}")
            continue
        answering.append(peer)
        figures[f"{peer.name}.answer_ms"] = round(took, 1)
        figures[f"{peer.name}.answer_cpu_ms"] = round(used, 1)
    try:
        if any(peer.name.startswith("gateway") for peer in answering):
            figures["help_ms"] = round(help_ms(environment.cpus, environment.directory), 1)
        figures |= idle(environment, answering, patience)
    except BenchError as failure:
        tell(f"  {failure}")
    return figures


def _begin(environment: Environment, peer: Peer, stack: ExitStack) -> Running:
    place = environment.place(peer)
    running = environment.begin(peer, place)
    stack.callback(running.stop)
    _wait_for_answer(running, place)
    return running


def _wait_for_answer(running: Running, place: Place) -> None:
    begun = time.perf_counter()
    while time.perf_counter() - begun < ANSWER_SECONDS:
        if not running.alive():
            raise BenchError(f"ended with code {running.process.returncode}:\n{running.last_words()}")
        with (
            contextlib.suppress(OSError, http.client.HTTPException),
            connection(place.port, timeout=2) as link,
        ):
            link.request("GET", ITEM)
            link.getresponse().read()
            return
        time.sleep(0.002)
    raise BenchError(f"gave no answer within {ANSWER_SECONDS:g} s:\n{running.last_words()}")
