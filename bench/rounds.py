"""The comparison: all peers run throughout, and are measured in turn, round after round.

The order A B C … A B C … instead of A A A B B B spreads disturbances by other work on the machine over all peers.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench.checking import check
from bench.driver import Driver
from bench.figures import Outcome, Window
from bench.machine import load_average
from bench.peers.peer import Peer, Place
from bench.peers.signer import Signer
from bench.processes import BenchError, Running, free_port, start, wait_for_port
from bench.traffic import TRAFFIC, VARYING, Traffic

READY_SECONDS = 20.0
SETTLE_SECONDS = 2.0
AT_REST = 0.05  # seconds; a process at rest uses less than a tenth of them

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """The number of rounds, and the lengths of windows in seconds."""

    rounds: int
    seconds: float
    warm_up: float

    def window(self, peer: Peer) -> float:
        return self.seconds * 3 if peer.slow else self.seconds


@dataclass(slots=True)
class RunningPeer:
    """A running peer that passed its checks."""

    peer: Peer
    place: Place
    running: Running
    credential: str
    windows: dict[str, list[Window]] = field(default_factory=dict)

    def url(self, traffic: Traffic) -> str:
        return f"http://127.0.0.1:{self.place.port}{traffic.path}"

    def traffic(self) -> list[Traffic]:
        """The kinds of traffic with which the peer is measured."""
        return [each for each in TRAFFIC if each.name in self.peer.traffic]

    def outcomes(self) -> list[Outcome]:
        """The figures so far, with the current memory."""
        peer, memory = self.peer, self.running.memory()
        version = peer.version()
        return [
            Outcome(
                peer.name,
                peer.title,
                peer.does,
                version,
                peer.identity,
                tuple(windows),
                memory.rss,
                memory.pss,
                traffic,
            )
            for traffic, windows in self.windows.items()
        ]


@dataclass(frozen=True, slots=True)
class Environment:
    """The environment in which peers are started."""

    directory: Path
    cpus: frozenset[int] | None
    upstream_port: int
    signer: Signer

    def place(self, peer: Peer) -> Place:
        """A new folder and port."""
        port = free_port()
        directory = self.directory / f"{peer.name}-{port}"
        directory.mkdir()
        return Place(directory, port, self.upstream_port, self.signer)

    def begin(self, peer: Peer, place: Place) -> Running:
        """Start the peer without waiting for it."""
        launch = peer.launch(place)
        return start(
            launch.command,
            cpus=self.cpus,
            environment=launch.environment,
            directory=place.directory,
            name="peer",
        )

    @contextmanager
    def running_peer(self, peer: Peer) -> Iterator[RunningPeer]:
        """Start and check the peer, and stop it at the end. Raises BenchError if a check fails."""
        place = self.place(peer)
        running = self.begin(peer, place)
        try:
            wait_for_port(running, place.port)
            _wait_until_ready(peer, place)
            credential = peer.credential(place)
            check(peer, place.port, credential)
            yield RunningPeer(peer, place, running, credential)
        finally:
            running.stop()

    @contextmanager
    def running_peers(
        self, peers: Sequence[Peer], failed: Callable[[Peer, BenchError], object]
    ) -> Iterator[list[RunningPeer]]:
        """The peers that pass their checks, in order. `failed` is called for the others."""
        with ExitStack() as stack:
            started = []
            for peer in peers:
                try:
                    started.append(stack.enter_context(self.running_peer(peer)))
                except BenchError as failure:
                    failed(peer, failure)
            yield started


def _wait_until_ready(peer: Peer, place: Place) -> None:
    begun = time.monotonic()
    while not peer.ready(place):
        if time.monotonic() - begun > READY_SECONDS:
            raise BenchError(f"was not ready within {READY_SECONDS:g} s")
        time.sleep(0.02)


def measure(running_peer: RunningPeer, driver: Driver, seconds: float, traffic: Traffic = VARYING) -> Window:
    """Measure one window. Raises BenchError for any failed request, because a proxy that drops requests is not fast."""
    url = running_peer.url(traffic)
    requests = traffic.requests(url, running_peer.credential)
    before = running_peer.running.cpu_seconds()
    load = driver.drive(url, requests, seconds, status=traffic.status)
    after = running_peer.running.cpu_seconds()
    if load.failed or not load.requests:
        raise BenchError(f"errors under load: {load.errors} of {load.requests} requests")
    if set(after) != set(before):
        raise BenchError("one of its processes came or went during the measurement")
    cpu = sum(after.values()) - sum(before.values())
    points = (load.p50, load.p90, load.p99, load.p999)
    return Window(load.requests, load.seconds, cpu, *points, load_average=load_average())


def settle(running_peer: RunningPeer) -> None:
    """Wait until the peer has processed its remaining requests. A slow peer needs a tenth of a second for 32 of them,
    and would take the CPU from the next one."""
    until = time.monotonic() + SETTLE_SECONDS
    before = sum(running_peer.running.cpu_seconds().values())
    while time.monotonic() < until:
        time.sleep(AT_REST)
        now = sum(running_peer.running.cpu_seconds().values())
        if now - before < AT_REST / 10:
            return
        before = now


class Comparison:
    """Runs the rounds. A peer that fails is left out from then on, and the reason is kept."""

    def __init__(self, environment: Environment, driver: Driver, tell: Tell) -> None:
        self.environment = environment
        self.driver = driver
        self.tell = tell
        self.failed: dict[str, str] = {}

    def run(self, peers: Sequence[Peer], plan: Plan) -> list[Outcome]:
        """Run all rounds; returns the outcomes in the order of `peers`."""
        with self.environment.running_peers(peers, self._fail) as started:
            running_peers = [each for each in started if self._warm_up(each, plan)]
            for number in range(1, plan.rounds + 1):
                self.tell(f"round {number} of {plan.rounds}, load average {load_average():.2f}")
                self._round(running_peers, number, plan)
                running_peers = [each for each in running_peers if each.peer.name not in self.failed]
            return [outcome for each in running_peers if self._still_right(each) for outcome in each.outcomes()]

    def _warm_up(self, running_peer: RunningPeer, plan: Plan) -> bool:
        try:
            window = measure(running_peer, self.driver, plan.warm_up)
        except BenchError as failure:
            return self._fail(running_peer.peer, failure)
        settle(running_peer)
        self.tell(f"  {running_peer.peer.name:22} proved and warm, {window.rps:8.0f} requests/s")
        return True

    def _round(self, running_peers: Sequence[RunningPeer], number: int, plan: Plan) -> None:
        """One round. It starts with another peer each time, so that no peer always follows the same neighbour."""
        begin = (number - 1) * 5 % max(1, len(running_peers))
        for running_peer in [*running_peers[begin:], *running_peers[:begin]]:
            self._measure(running_peer, plan)

    def _measure(self, running_peer: RunningPeer, plan: Plan) -> bool:
        for traffic in running_peer.traffic():
            try:
                window = measure(running_peer, self.driver, plan.window(running_peer.peer), traffic)
            except BenchError as failure:
                return self._fail(running_peer.peer, failure)
            running_peer.windows.setdefault(traffic.name, []).append(window)
            settle(running_peer)
            name = f"{running_peer.peer.name}, {traffic.name}"
            self.tell(f"  {name:36} {window.cpu_us:8.1f} µs CPU {window.rps:8.0f} requests/s")
        return True

    def _still_right(self, running_peer: RunningPeer) -> bool:
        try:
            check(running_peer.peer, running_peer.place.port, running_peer.credential)
        except BenchError as failure:
            return self._fail(running_peer.peer, failure)
        return True

    def _fail(self, peer: Peer, failure: BenchError) -> bool:
        self.failed[peer.name] = str(failure)
        self.tell(f"  {peer.name:22} LEFT OUT: {failure}")
        return False
