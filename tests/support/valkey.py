"""Fixtures of Valkey servers."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.processes import free_port
from bench.stores.valkey import ValkeyServer, running
from tests.support.waiting import eventually


@pytest.fixture
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    """A server for one test, which can stop, kill or suspend it."""
    with running(tmp_path_factory.mktemp("valkey")) as server:
        yield server


@pytest.fixture(scope="session")
def lasting_valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    """One server for all tests of a process, which must not stop it."""
    with running(tmp_path_factory.mktemp("valkey")) as server:
        yield server


@pytest.fixture
def shared_valkey(lasting_valkey: ValkeyServer) -> ValkeyServer:
    """The server for all tests, emptied for this one."""
    with lasting_valkey.client() as client:
        client.flushall()
    return lasting_valkey


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[list[ValkeyServer]]:
    """A cluster of three nodes with a third of the keys each."""
    nodes = [
        ValkeyServer(
            tmp_path,
            *("--cluster-enabled", "yes", "--cluster-config-file", f"nodes-{number}.conf"),
            *("--cluster-port", str(free_port()), "--cluster-announce-ip", "127.0.0.1"),
            *("--cluster-node-timeout", "2000"),
        )
        for number in range(3)
    ]
    try:
        for number, node in enumerate(nodes):
            node.start()
            with node.client() as client:
                client.execute_command("CLUSTER", "ADDSLOTSRANGE", *[(0, 5460), (5461, 10922), (10923, 16383)][number])
        with nodes[0].client() as client:
            for node in nodes[1:]:
                bus = node.client().config_get("cluster-port")["cluster-port"]
                client.execute_command("CLUSTER", "MEET", "127.0.0.1", node.port, bus)
        for node in nodes:
            eventually(lambda node: node.client().cluster("INFO").get("cluster_state") == "ok", node, timeout=20.0)
            eventually(lambda node: node.client().cluster("INFO").get("cluster_known_nodes") == "3", node, timeout=20.0)
        yield nodes
    finally:
        for node in nodes:
            node.kill()
