"""A Redis that answers but does not do its work counts as down: the link reconnects, and copies are not used."""

import logging
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import redis

from bench.stores.valkey import ValkeyServer, running
from gateway.accounts.failed_attempts import Allowance, Counter, UnreportedCounts
from gateway.errors import StorageUnavailable
from gateway.gate.leaky_buckets import Quota
from gateway.storage.redis.buckets import RedisBuckets
from gateway.storage.redis.client import RedisLink
from gateway.storage.redis.failed_attempts import RedisFailures
from tests.identity.stores import MemoryStore, record
from tests.storage.authentic import INSTALLATION
from tests.storage.replicas import Replica, replicas
from tests.support.processes import free_port
from tests.support.relays import relay_to
from tests.support.waiting import eventually, promised, until

Client = redis.Redis
NOTICED = 1.0  # In seconds; /ready has two.
WHOLE = 5.0


def fail_to_save(client: Client, folder: Path) -> None:
    client.config_set("save", "3600 1000000")
    shutil.rmtree(folder)
    client.bgsave()
    eventually(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err")


def follow_nobody(client: Client, serves_stale: str = "yes") -> None:
    client.config_set("replica-serve-stale-data", serves_stale)
    client.execute_command("REPLICAOF", "127.0.0.1", str(free_port()))


def acl(*rules: str) -> Callable[[Client, Path], object]:
    return lambda client, _: client.execute_command("ACL", "SETUSER", "default", *rules)


def config(name: str, value: str) -> Callable[[Client, Path], object]:
    return lambda client, _: client.config_set(name, value)


class Case(NamedTuple):
    """How a server begins and stops to refuse its work, and the words in the log."""

    begin: Callable[[Client, Path], object]
    end: Callable[[Client, Path], object]
    says: str


LEADS = lambda client, _: client.execute_command("REPLICAOF", "NO", "ONE")  # noqa: E731
CASES = {
    "READONLY": Case(lambda client, _: follow_nobody(client), LEADS, "read only replica"),
    "MASTERDOWN": Case(lambda client, _: follow_nobody(client, "no"), LEADS, "MasterDownError"),
    "NOREPLICAS": Case(config("min-replicas-to-write", "1"), config("min-replicas-to-write", "0"), "NOREPLICAS"),
    "OOM": Case(config("maxmemory", "1"), config("maxmemory", "0"), "maxmemory"),
    "MISCONF": Case(fail_to_save, config("stop-writes-on-bgsave-error", "no"), "MISCONF"),
    "NOPERM eval": Case(acl("-eval"), acl("+eval"), "'eval' command"),
    "NOPERM publish": Case(acl("-publish"), acl("+publish"), "(PUBLISH "),
    "NOPERM set": Case(acl("-set"), acl("+set"), "(SET "),
    "NOPERM keys": Case(acl("resetkeys", "~other:*"), acl("allkeys"), "access a key"),
    "NOPERM channels": Case(acl("resetchannels"), acl("allchannels"), "(PUBLISH "),
}


async def known_to(*some: Replica) -> None:
    await until(lambda: all(replica.whole for replica in some), within=WHOLE)
    for replica in some:
        await replica.found()
        assert replica.directory.cached("u1") is not None


async def prompt(one: Replica, other: Replica) -> None:
    """A change is visible on the other replica within 100 ms."""
    await known_to(one, other)
    changed = await one.change(roles=frozenset(["told"]))
    await until(lambda: other.directory.cached("u1") is None, within=promised(0.1))
    assert (await other.found()).record == changed


@pytest.mark.parametrize("case", CASES)
async def test_a_server_that_refuses_its_work_is_down_until_it_does_it_again(
    case: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = MemoryStore(record())
    folder = tmp_path / "server"
    folder.mkdir()
    begin, end, says = CASES[case]
    with running(folder) as server, server.client() as client:
        async with replicas(store, server.url) as (one, other):
            await known_to(one, other)
            begin(client, folder)
            await until(lambda: not one.whole and not other.whole, within=NOTICED)
            assert other.directory.cached("u1") is None
            await one.change(is_active=False)
            for _ in range(20):
                assert not (await other.found()).is_active
                assert other.directory.cached("u1") is None
            await until(lambda: not one.link.available and not other.link.available, within=NOTICED)
            end(client, folder)
            await until(lambda: one.whole and other.whole, within=WHOLE)
            await until(lambda: one.feed.undelivered == 0, within=WHOLE)
            assert not (await other.found()).is_active
            await prompt(one, other)
    lines = [entry.getMessage() for entry in caplog.records if " is down: " in entry.getMessage()]
    assert any(says in line for line in lines), lines
    assert len(lines) <= 2 * len({re.sub(r"pulse:\w+", "", line) for line in lines})


async def test_counts_and_limits_fall_back_at_once_and_every_call_is_prompt(valkey: ValkeyServer) -> None:
    link = RedisLink(valkey.url, INSTALLATION)
    await link.open()
    failures, buckets = RedisFailures(link), RedisBuckets(link)
    report = UnreportedCounts(Counter("o", "{o}:k", Allowance(3, 60.0, 60.0)), 1, 0.0, 60.0)
    with valkey.client() as client:
        client.config_set("min-replicas-to-write", "1")
        started = time.monotonic()
        with pytest.raises(StorageUnavailable, match="NOREPLICAS"):
            await failures.report([report])
        assert not failures.available
        with pytest.raises(StorageUnavailable, match="NOREPLICAS"):
            await buckets.take("limit:k", Quota(3, 60.0))
        assert time.monotonic() - started < promised(0.25)
        client.config_set("min-replicas-to-write", "0")
        await until(lambda: failures.available)
        assert (await failures.report([report]))[0].failures == 1
    await link.close()


async def test_one_cause_makes_one_line_a_minute_and_another_cause_its_own(
    valkey: ValkeyServer, caplog: pytest.LogCaptureFixture
) -> None:
    now = [0.0]
    link = RedisLink(valkey.url, INSTALLATION, clock=lambda: now[0] + time.monotonic())
    await link.open()

    def lines(text: str) -> int:
        return sum(text in entry.getMessage() for entry in caplog.records)

    with valkey.client() as client:
        for minute in (1, 2):
            for _ in range(3):
                client.config_set("min-replicas-to-write", "1")
                await until(lambda: not link.available)
                client.config_set("min-replicas-to-write", "0")
                await until(lambda: link.available)
            assert lines("NOREPLICAS") == minute
            now[0] += 61
        client.execute_command("ACL", "SETUSER", "default", "-eval")
        await until(lambda: lines("'eval' command") == 1)
        client.execute_command("ACL", "SETUSER", "default", "+eval")
    await link.close()


async def test_a_password_that_changed_is_named_as_the_cause(
    valkey: ValkeyServer, caplog: pytest.LogCaptureFixture
) -> None:
    store = MemoryStore(record())
    async with replicas(store, valkey.url) as (one, other):
        await known_to(one, other)
        with valkey.client() as client:
            client.config_set("requirepass", "another")
            client.execute_command("CLIENT", "KILL", "TYPE", "normal")
            await until(lambda: "does not accept the user or the password" in caplog.text)
            await until(lambda: not one.whole and not other.whole, within=NOTICED)
            client.config_set("requirepass", "")
        await prompt(one, other)


async def test_a_server_that_loads_its_data_is_down(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = MemoryStore(record())
    with running(tmp_path, "--enable-debug-command", "yes") as server, server.client() as client:
        async with replicas(store, server.url) as (one, other):
            await known_to(one, other)
            client.execute_command("DEBUG", "POPULATE", 1500)
            client.config_set("loading-process-events-interval-bytes", 1024)
            client.config_set("key-load-delay", 1000)
            reload = subprocess.Popen(
                [
                    "bash",
                    "-c",
                    f"exec 3<>/dev/tcp/127.0.0.1/{server.port}; printf 'DEBUG RELOAD\\r\\n' >&3; head -1 <&3",
                ],
                stdout=subprocess.DEVNULL,
            )
            await until(lambda: not one.whole and not other.whole, within=NOTICED + 0.5)
            reload.wait(20)
            await prompt(one, other)
    assert "BusyLoadingError" in caplog.text


# ---- another server behind the same name


@pytest.mark.parametrize("keeps_connections", [True, False], ids=["that keeps connections", "that is cut off"])
async def test_after_a_failover_behind_one_name_the_new_master_is_found(
    tmp_path: Path, keeps_connections: bool
) -> None:
    with (
        running(tmp_path) as first,
        running(tmp_path, "--replicaof", f"127.0.0.1 {first.port}") as second,
        first.client() as old,
        second.client() as new,
    ):
        eventually(lambda: new.info("replication")["master_link_status"] == "up", timeout=20.0)
        store = MemoryStore(record())
        async with (
            relay_to(first.port) as relay,
            replicas(store, f"redis://127.0.0.1:{relay.port}/0") as (one, other),
        ):
            await known_to(one, other)
            new.execute_command("REPLICAOF", "NO", "ONE")
            old.execute_command("REPLICAOF", "127.0.0.1", str(second.port))
            relay.target_port = second.port
            if not keeps_connections:
                relay.cut()
            await until(lambda: not one.whole and not other.whole, within=NOTICED)
            store.change("u1", is_active=False)
            assert not (await other.found()).is_active
            await prompt(one, other)
            assert new.pubsub_numsub(one.records.channel) == [(one.records.channel, 2)]


# ---- permissions


FOR_CLUSTERS = ("+command", "+cluster|slots")


def documented_rights() -> list[str]:
    """The rules of the ACL SETUSER line in docs/deployment/redis.md."""
    text = Path("docs/deployment/redis.md").read_text()
    line = re.search(r"^ACL SETUSER gateway (.*)$", text, re.MULTILINE)
    assert line is not None
    return line[1].replace(">PASSWORD", ">secret").split()


def sign_in(server: ValkeyServer) -> str:
    return f"redis://gateway:secret@127.0.0.1:{server.port}/1"


async def test_the_documented_rights_are_enough(shared_valkey: ValkeyServer) -> None:
    store = MemoryStore(record())
    with shared_valkey.client() as client:
        client.execute_command("ACL", "LOG", "RESET")
        client.execute_command("ACL", "SETUSER", "gateway", "reset", *documented_rights())
        async with replicas(store, sign_in(shared_valkey)) as (one, other):
            await prompt(one, other)
            failures, buckets = RedisFailures(one.link), RedisBuckets(other.link)
            counter = Counter("o", "{o}:k", Allowance(3, 60.0, 60.0))
            assert (await failures.report([UnreportedCounts(counter, 1, 0.0, 60.0)]))[0].failures == 1
            await failures.reset(["o"], lifetime=60.0)
            await failures.forget(counter)
            assert await buckets.take("limit:k", Quota(3, 60.0)) == 1
        assert [entry["object"] for entry in client.acl_log() if entry["object"] != "client|setinfo"] == []


async def test_the_documented_rights_are_enough_in_a_cluster(cluster: list[ValkeyServer]) -> None:
    for node in cluster:
        node.client().execute_command("ACL", "SETUSER", "gateway", "reset", *documented_rights())
    store = MemoryStore(*(record(f"u{number}") for number in range(1, 20)))
    url = f"redis+cluster://gateway:secret@127.0.0.1:{cluster[0].port}"
    async with replicas(store, url) as (one, other):
        await prompt(one, other)
        for user_id in store.users:
            await one.found(user_id)
        await until(lambda: sum(node.client().dbsize() for node in cluster) >= len(store.users))


@pytest.mark.parametrize(
    "right", [rule for rule in documented_rights() if rule[0] in "+~&" and rule not in FOR_CLUSTERS]
)
async def test_each_missing_right_is_named_at_the_start(
    shared_valkey: ValkeyServer, right: str, caplog: pytest.LogCaptureFixture
) -> None:
    with shared_valkey.client() as client:
        rules = [rule for rule in documented_rights() if rule != right]
        client.execute_command("ACL", "SETUSER", "gateway", "reset", *rules)
        store = MemoryStore(record())
        async with replicas(store, sign_in(shared_valkey), count=1) as (one,):
            await until(lambda: " is down: it does not do its work" in caplog.text)
            assert not one.whole
    named = {"~gateway:*": "access a key", "&gateway:*": "access a channel"}
    assert named.get(right, f"'{right[1:]}' command") in caplog.text
    assert "docs/deployment/redis.md lists the rights" in caplog.text


# ---- clusters


@pytest.mark.parametrize("full_coverage", ["yes", "no"])
async def test_a_cluster_without_one_of_its_slots_is_down(
    cluster: list[ValkeyServer], full_coverage: str, caplog: pytest.LogCaptureFixture
) -> None:
    for node in cluster:
        node.client().config_set("cluster-require-full-coverage", full_coverage)
    store = MemoryStore(record())
    url = "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in cluster)
    async with replicas(store, url) as (one, other):
        await known_to(one, other)
        cluster[1].kill()
        await until(lambda: not one.whole and not other.whole, within=NOTICED)
        await one.change(is_active=False)
        assert not (await other.found()).is_active
        cluster[1].start()
        await until(lambda: one.whole and other.whole, within=10.0)
        await prompt(one, other)
    assert any(entry.levelno == logging.WARNING and " is down: " in entry.getMessage() for entry in caplog.records)


async def test_a_cluster_whose_slot_is_assigned_to_no_node_is_down(cluster: list[ValkeyServer]) -> None:
    store = MemoryStore(record())
    url = f"redis+cluster://127.0.0.1:{cluster[0].port}"
    async with replicas(store, url) as (one, other):
        await known_to(one, other)
        for node in cluster:
            node.client().execute_command("CLUSTER", "DELSLOTS", 0)
        await until(lambda: not one.whole and not other.whole, within=NOTICED + 1.0)
        cluster[0].client().execute_command("CLUSTER", "ADDSLOTS", 0)
        await until(lambda: one.whole and other.whole, within=WHOLE)
        await prompt(one, other)
