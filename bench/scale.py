"""The cost of a request as its surroundings grow: `python -m bench.scale [--output FILE.json]`.

Routes, targets, header fields, cached tokens and cached users grow in memory (bench/growing.py); users in the database,
idle connections and workers with real processes. The cost should stay flat.
"""

import argparse
import asyncio
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import ClassVar

from bench import growing, plot, websocket
from bench.accounts.deployment import Caller, Deployment, Gateway, run_command
from bench.accounts.store_size import fill, token_of
from bench.driver import Driver
from bench.growing import Points
from bench.machine import facts, split_cpus
from bench.peers.gateway import GatewayServe
from bench.peers.peer import ITEM, Launch, Place
from bench.peers.signer import Signer
from bench.processes import BenchError, pinned
from bench.report import scale_tables
from bench.rounds import Environment, RunningPeer, measure
from bench.stores.valkey import running as valkey
from bench.traffic import caller_headers
from bench.upstream import start_upstream

Result = dict[str, Points]

IDLE = (0, 1000, 10_000)
USERS = (1000, 10_000, 100_000, 1_000_000)
FIRST = 1000  # requests


class Workers(GatewayServe):
    """The gateway with several workers that share a Valkey."""

    name = "gateway-workers"
    count: ClassVar[int] = 1
    redis: ClassVar[str] = ""

    def configuration(self, place: Place) -> str:
        text = super().configuration(place).replace("  max_body: 0\n", f"  max_body: 0\n  workers: {self.count}\n")
        return text.replace("storage:\n", f"storage:\n  redis: {self.redis}\n")

    def launch(self, place: Place) -> Launch:
        return super().launch(place)


def by_idle(environment: Environment, driver: Driver) -> tuple[Points, Points]:
    """CPU microseconds per request beside idle keep-alive connections, and KiB for each of those."""
    cost, held = {}, {}
    with environment.running_peer(GatewayServe()) as running_peer, asyncio.Runner() as runner:
        measure(running_peer, driver, 1)
        for count in IDLE:
            callers, kib = runner.run(_opened(running_peer, count))
            cost[str(count)] = round(min(measure(running_peer, driver, 1).cpu_us for _ in range(5)), 2)
            if count:
                held[str(count)] = kib
            runner.run(_left(callers))
    return cost, held


async def _opened(running_peer: RunningPeer, count: int) -> tuple[list[websocket.Caller], float]:
    before = running_peer.running.memory().rss
    callers = await websocket.opened(running_peer, _kept_alive, b"HTTP/1.1 200", count)
    await asyncio.sleep(websocket.SETTLE)
    return callers, round((running_peer.running.memory().rss - before) / max(1, count) / 1024, 2)


def _kept_alive(port: int, credential: str) -> bytes:
    return websocket.head_of(ITEM, port, caller_headers(credential))


async def _left(callers: Sequence[websocket.Caller]) -> None:
    websocket.close(callers)
    await asyncio.sleep(1.0)


def by_workers(environment: Environment, driver: Driver) -> Points:
    """CPU microseconds per request with one and two workers."""
    found = {}
    with valkey(environment.directory) as server:
        for count in (1, 2):
            peer = Workers()
            peer.count, peer.redis = count, server.url  # type: ignore[misc]
            with environment.running_peer(peer) as running_peer:
                measure(running_peer, driver, 1)
                found[str(count)] = round(min(measure(running_peer, driver, 1).cpu_us for _ in range(5)), 2)
    return found


def by_users() -> tuple[Points, Points]:
    """CPU microseconds per request by number of users in the database (SQLite): for users that are not cached yet, and
    for a cached one."""
    first, later = {}, {}
    with tempfile.TemporaryDirectory(prefix="gateway-bench-") as directory, ExitStack() as stack:
        deployment = Deployment(Path(directory), stack)
        for count in USERS:
            database = deployment.sqlite(f"users-{count}")
            run_command(deployment.configuration(database)[0], "db", "upgrade")
            fill(database, count)
            with deployment.gateway(database) as gateway, gateway.caller() as caller:
                numbers = Random(count).sample(range(1, count + 1), FIRST)
                tokens = [token_of(number, "sqlite") for number in numbers]
                first[str(count)] = _cpu_of(gateway, caller, tokens)
                later[str(count)] = _cpu_of(gateway, caller, tokens[:1] * FIRST)
    return first, later


def _cpu_of(gateway: Gateway, caller: Caller, tokens: Sequence[str]) -> float:
    before = sum(gateway.running.cpu_seconds().values())
    for token in tokens:
        caller.must("GET", "/api/x", token=token)
    return round((sum(gateway.running.cpu_seconds().values()) - before) / len(tokens) * 1e6, 1)


def in_memory() -> Result:
    """The measurements that run in memory, on one CPU."""
    with pinned(frozenset({min(os.sched_getaffinity(0))})):
        return asyncio.run(growing.grow())


def with_processes() -> Result:
    """The measurements with real connections and processes."""
    proxy_cpus, load_cpus = split_cpus()
    driver = Driver(load_cpus, 32)
    with tempfile.TemporaryDirectory(prefix="gateway-bench-") as directory:
        upstream = start_upstream(Path(directory), load_cpus)
        try:
            environment = Environment(Path(directory), proxy_cpus, upstream.port, Signer())
            cost, held = by_idle(environment, driver)
            first, later = by_users()
            return {
                "users in the database, first request": first,
                "users in the database, later requests": later,
                "idle connections": cost,
                "KiB of each idle connection": held,
                "workers": by_workers(replace(environment, cpus=None), driver),
            }
        finally:
            upstream.running.stop()


def main() -> int:
    """Exit code 2 if a measurement fails."""
    parser = argparse.ArgumentParser(prog="python -m bench.scale", description=__doc__)
    parser.add_argument("--memory-only", action="store_true", help="leave out measurements with processes")
    parser.add_argument("--output", type=Path, help="also write a JSON file, with a picture beside it")
    options = parser.parse_args()
    try:
        result = in_memory() | ({} if options.memory_only else with_processes())
    except BenchError as failure:
        print(f"bench: {failure}", file=sys.stderr)
        return 2
    print(scale_tables(result))
    if options.output:
        options.output.write_text(json.dumps({"machine": facts(), "scale": result}, indent=1) + "\n")
        if plot.available():
            plot.plot_growth(result, options.output.with_suffix(".svg"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
