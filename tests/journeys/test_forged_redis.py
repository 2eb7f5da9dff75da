"""An attacker with write access to Redis, against both replicas: no rights, no access for revoked users, no lost
copies."""

import json
import time
from collections.abc import Iterator

import pytest
import redis

from tests.journeys.conftest import USER_TTL
from tests.journeys.deployments import Replicated
from tests.storage.authentic import old_record
from tests.support.processes import Account, Gateway
from tests.support.small import metric
from tests.support.waiting import eventually

REJECTED = "gateway_redis_rejected_total"
PAUSE = 0.02  # seconds between two requests of a series


@pytest.fixture
def attacker(replicas: Replicated) -> Iterator["redis.Redis"]:
    replicas.mend()
    with replicas.valkey.client(decode_responses=False) as client:
        yield client


def statuses(replicas: Replicated, target: str, account: Account) -> list[int]:
    return [gateway.get(target, account.line).status for gateway in replicas.deployment.all]


def user_key(replicas: Replicated, user_id: str) -> str:
    return f"{replicas.redis_prefix}user:{user_id}"


def rejected(gateway: Gateway, kind: str) -> float:
    page = gateway.get("/_gateway/metrics").body.decode()
    return metric(gateway, REJECTED, kind=kind) if f'{REJECTED}{{kind="{kind}"}}' in page else 0.0


def test_a_forged_record_and_a_forged_message_make_no_administrator(
    replicas: Replicated, attacker: "redis.Redis"
) -> None:
    plain = replicas.deployment.first.newcomer()
    before = [rejected(gateway, "message") for gateway in replicas.deployment.all]
    until = time.monotonic() + USER_TTL + 0.5  # every copy has expired once by then
    while time.monotonic() < until:
        attacker.set(user_key(replicas, plain.id), old_record(plain.id, roles=["admin", "user"], version=99), px=10**9)
        attacker.publish(
            f"{replicas.redis_prefix}changes", json.dumps(["forget", plain.id, 99, int(time.time() * 1000)])
        )
        assert statuses(replicas, "/admin/x", plain) == [403, 403]
        assert statuses(replicas, "/api/x", plain) == [200, 200]
        time.sleep(PAUSE)
    for gateway, count in zip(replicas.deployment.all, before, strict=True):
        assert rejected(gateway, "message") > count
        assert "Redis has a message that no key of this gateway authenticates" in gateway.log()
    assert sum(rejected(gateway, "record") for gateway in replicas.deployment.all) >= 1


def test_a_record_from_before_a_revocation_keeps_no_user_in(replicas: Replicated, attacker: "redis.Redis") -> None:
    doomed = replicas.deployment.first.newcomer()
    assert statuses(replicas, "/api/x", doomed) == [200, 200]
    key = user_key(replicas, doomed.id)
    genuine = eventually(lambda: attacker.get(key))
    assert genuine is not None
    told_at = replicas.deployment.command("users", "disable", doomed.email)
    while time.monotonic() < told_at + replicas.deployment.propagation:
        attacker.set(key, genuine, px=10**9)
        time.sleep(0.002)
    until = time.monotonic() + USER_TTL + 0.5
    while time.monotonic() < until:
        attacker.set(key, genuine, px=10**9)
        assert statuses(replicas, "/api/x", doomed) == [401, 401]
        time.sleep(PAUSE)


def test_a_forged_message_about_a_user_costs_no_query(replicas: Replicated, attacker: "redis.Redis") -> None:
    known = replicas.deployment.first.newcomer()
    gateway = replicas.deployment.second
    assert gateway.get("/api/x", known.line).status == 200
    before = metric(gateway, "gateway_cache_lookups_total", level="local", result="miss")
    count = rejected(gateway, "message")
    for _ in range(50):
        attacker.publish(
            f"{replicas.redis_prefix}changes", json.dumps(["forget", known.id, None, int(time.time() * 1000)])
        )
    eventually(lambda: rejected(gateway, "message") >= count + 50)
    assert gateway.get("/api/x", known.line).status == 200
    assert metric(gateway, "gateway_cache_lookups_total", level="local", result="miss") == before


def test_a_forged_version_and_a_key_of_another_type_lock_no_user_out(
    replicas: Replicated, attacker: "redis.Redis"
) -> None:
    users = [replicas.deployment.first.newcomer() for _ in range(2)]
    attacker.set(user_key(replicas, users[0].id), b"9007199254740991 x")
    attacker.delete(user_key(replicas, users[1].id))
    attacker.lpush(user_key(replicas, users[1].id), b"x")
    until = time.monotonic() + USER_TTL + 0.2
    while time.monotonic() < until:
        assert [statuses(replicas, "/api/x", user) for user in users] == [[200, 200], [200, 200]]
        time.sleep(PAUSE)
