"""Redis fails over, refuses writes, or loses slots in the middle of journeys: login, refresh, request, logout.

The database decides about sessions, so each step has its usual result at any moment of the failure. A session that has
ended is refused by the replica that ended it at once, and by the other one as soon as it must know.
"""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import redis

from bench.stores.valkey import ValkeyServer, running
from tests.journeys.deployments import Replicated, degraded, replicas_over
from tests.journeys.test_faults import REVOKED, bearer_line, tokens
from tests.journeys.test_outages import SERVED, promptly
from tests.support.gateways import Gateways
from tests.support.processes import Gateway
from tests.support.waiting import eventually

NOTICED = 1.5  # seconds until a replica stops to trust its copies, where it is not told of a change
WHOLE = 5.0  # seconds
Both = tuple[Gateway, Gateway]


def journey(first: Gateway, second: Gateway, email: str) -> None:
    """One session from its login to its end, with each step on the other replica."""
    session = tokens(first, email)
    refreshed = second.post("/auth/refresh", {"refresh_token": session["refresh_token"]})
    assert refreshed.status == 200, refreshed
    again = first.post("/auth/refresh", {"refresh_token": refreshed.json()["refresh_token"]})
    assert again.status == 200, again
    line = bearer_line(again.json()["access_token"])
    for gateway in (first, second):
        assert promptly(lambda gateway=gateway: gateway.get("/api/x", line)) == SERVED  # type: ignore[misc]
    assert promptly(lambda: second.post("/auth/logout", b"", line)) == (204, None)
    assert promptly(lambda: second.get("/api/x", line)) == REVOKED
    ended = time.monotonic()
    while (seen := promptly(lambda: first.get("/api/x", line))) == SERVED and time.monotonic() - ended < NOTICED:
        time.sleep(0.01)
    assert seen == REVOKED
    for _ in range(3):
        assert promptly(lambda: first.get("/api/x", line)) == REVOKED
    dead = first.post("/auth/refresh", {"refresh_token": again.json()["refresh_token"]})
    assert dead.status == 401, dead


def journeys_during(both: Both, failure: Callable[[], object]) -> None:
    """Journeys one after another, in both directions, from before a failure until after it."""
    email = both[0].newcomer().email
    journey(*both, email)
    with ThreadPoolExecutor(1) as threads:
        failing = threads.submit(failure)
        count = 0
        while not failing.done():
            journey(*(both if count % 2 else (both[1], both[0])), email)
            count += 1
            time.sleep(0.02)
        failing.result()
    assert count >= 2
    whole(both)
    journey(*both, email)


def noticed(both: Both) -> None:
    """Wait until both replicas report the failure."""
    eventually(lambda: all(degraded(gateway) == ["redis"] for gateway in both), timeout=5)


def whole(both: Both, within: float = WHOLE) -> None:
    """Wait until both replicas report that nothing is down."""
    eventually(lambda: all(degraded(gateway) == [] for gateway in both), timeout=within)


def role(server: ValkeyServer) -> str:
    """On a new connection: Sentinel closes those of clients when it promotes a replica."""
    try:
        with server.client() as client:
            return str(client.info("replication")["role"])
    except redis.exceptions.ConnectionError:
        return "unknown"


def test_a_replica_that_sentinel_promotes_in_the_middle_of_journeys(
    gateways: Gateways, tmp_path: Path, postgres_url: str
) -> None:
    with ExitStack() as stack:
        first = stack.enter_context(running(tmp_path))
        second = stack.enter_context(running(tmp_path, "--replicaof", f"127.0.0.1 {first.port}"))
        sentinel = stack.enter_context(running(tmp_path, watched=first.port))
        with sentinel.client() as client:
            eventually(lambda: client.sentinel_master("mymaster")["num-slaves"] == 1, timeout=20.0)
        with second.client() as client:
            eventually(lambda: client.info("replication")["master_link_status"] == "up", timeout=20.0)
        url = f"redis+sentinel://127.0.0.1:{sentinel.port}/mymaster/0"
        both = stack.enter_context(replicas_over(gateways, tmp_path, postgres_url, url))
        whole(both)

        def fail_over() -> None:
            first.kill()
            noticed(both)
            eventually(lambda: role(second) == "master", timeout=20.0)
            whole(both)

        journeys_during(both, fail_over)


def test_writes_that_are_refused_in_the_middle_of_journeys(replicas: Replicated) -> None:
    replicas.mend()
    both = (replicas.deployment.first, replicas.deployment.second)
    with replicas.valkey.client() as client:

        def refuse_writes() -> None:
            for _ in range(2):
                client.config_set("min-replicas-to-write", "1")
                try:
                    noticed(both)
                finally:
                    client.config_set("min-replicas-to-write", "0")
                whole(both)

        journeys_during(both, refuse_writes)
        assert all("NOREPLICAS" in gateway.log() for gateway in both)


def test_a_cluster_that_loses_slots_in_the_middle_of_journeys(
    gateways: Gateways, tmp_path: Path, postgres_url: str, cluster: list[ValkeyServer]
) -> None:
    addresses = ",".join(f"127.0.0.1:{node.port}" for node in cluster)
    for node in cluster:
        with node.client() as client:
            client.config_set("cluster-require-full-coverage", "no")  # the other slots go on
    with replicas_over(gateways, tmp_path, postgres_url, f"redis+cluster://{addresses}") as both:
        whole(both)

        def lose_slots() -> None:
            cluster[1].kill()
            noticed(both)
            cluster[1].start()
            whole(both, within=10.0)

        journeys_during(both, lose_slots)
