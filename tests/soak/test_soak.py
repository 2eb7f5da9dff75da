"""Good and hostile traffic on one worker for SOAK_SECONDS: no resource grows, and good clients get their responses."""

import asyncio
import time
from pathlib import Path

import pytest

from tests.fuzz.health import unexpected_errors
from tests.soak.figures import Sample, cost, growth, halves, mebibytes, percentile_99, usual_p99, warm, write
from tests.soak.servers import Servers
from tests.soak.settings import RESULTS, SECONDS
from tests.soak.traffic import GOOD, HOSTILE, Traffic
from tests.support.small import descriptors, metric
from tests.support.waiting import eventually

pytestmark = [
    pytest.mark.skipif(SECONDS == 0, reason="SOAK_SECONDS=0"),
    pytest.mark.timeout(SECONDS + 180),
    pytest.mark.flaky(reruns=0),
]

GROWTH = 24.0  # MiB over the whole time after the warm-up, even in a run of hours
SLOWER = 2.0  # times the first half: how much p99 and CPU time can grow in the second
DELAY = 250.0  # milliseconds by which other processes of a busy machine can delay the p99 of the second half
LOST = 0.005  # share of good requests that restarts of a target can abort
SLOW_STORAGE = 0.02  # share that a busy disk can delay beyond the time limits of the database
RESTARTS = min(15.0, SECONDS / 2)  # seconds between two restarts of a target
RELOADS = min(60.0, SECONDS / 5)


async def observe(servers: Servers, traffic: Traffic, started: float) -> Sample:
    """One sample. The request for the metrics waits like any other request."""
    tasks = await asyncio.to_thread(metric, servers.gateway, "gateway_tasks")
    return Sample(
        at=time.monotonic() - started,
        memory=mebibytes(servers.gateway.memory()),
        descriptors=descriptors(servers.gateway),
        tasks=int(tasks),
        p99=percentile_99(traffic.take_waits()),
        cpu=servers.gateway.loop_seconds(),
        good=traffic.good,
    )


async def soak(servers: Servers, traffic: Traffic) -> list[Sample]:
    """Run all clients; return a sample of each second."""
    started = time.monotonic()
    clients = [asyncio.create_task(traffic.run(action)) for action in (*GOOD, *HOSTILE)]
    samples: list[Sample] = []
    restart, reload = RESTARTS, RELOADS
    while (now := time.monotonic() - started) < SECONDS:
        if now > restart:
            restart += RESTARTS
            await servers.restart_target()
        if now > reload:
            reload += RELOADS
            servers.reload()
        await asyncio.sleep(1.0)
        samples.append(await observe(servers, traffic, started))
        servers.forget()
    traffic.stopping.set()
    await asyncio.gather(*clients)
    return samples


async def test_resources_stay_flat_and_good_clients_are_served_beside_hostile_ones(tmp_path: Path) -> None:
    servers = await asyncio.to_thread(Servers, tmp_path)
    gateway = servers.gateway
    try:
        account = await asyncio.to_thread(gateway.register, "soak@example.com")
        await asyncio.to_thread(gateway.get, "/web/x")
        before = await observe(servers, Traffic(gateway.address, account), time.monotonic())
        traffic = Traffic(gateway.address, account)
        samples = await soak(servers, traffic)
        settled = warm(samples)
        memory = growth(settled, lambda sample: sample.memory)
        opened = growth(settled, lambda sample: sample.descriptors)
        tasks = growth(settled, lambda sample: sample.tasks)
        p99, cpu = halves(settled, usual_p99), halves(settled, cost)
        summary = {
            "seconds": SECONDS,
            "good requests": traffic.good,
            "failed": dict(traffic.failed),
            "memory growth in MiB": memory,
            "descriptor growth": opened,
            "task growth": tasks,
            "p99 in ms, first half and second": p99,
            "CPU ms for each good request, first half and second": cpu,
        }
        print(f"\n{write(samples, summary, RESULTS)}\n{summary}")
        assert unexpected_errors(gateway) == []
        assert memory <= GROWTH
        assert opened <= 50
        assert tasks <= 20
        assert p99[1] <= SLOWER * p99[0] + DELAY
        assert cpu[1] <= SLOWER * cpu[0]
        slow = sum(times for name, times in traffic.failed.items() if name.endswith(" storage_unavailable"))
        assert traffic.failed.total() - slow <= traffic.good * LOST, traffic.failed
        assert slow <= traffic.good * SLOW_STORAGE, traffic.failed
        await asyncio.to_thread(lambda: eventually(lambda: descriptors(gateway) <= before.descriptors + 16, timeout=20))
        await asyncio.to_thread(
            lambda: eventually(lambda: metric(gateway, "gateway_tasks") <= before.tasks + 2, timeout=20)
        )
    finally:
        await asyncio.to_thread(servers.stop)
