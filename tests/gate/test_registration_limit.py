"""The registration limit per address, and which attempts count."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from bench.stores.valkey import ValkeyServer
from gateway.errors import Refusal
from gateway.gate.rate_limits import RegistrationLimit
from gateway.settings.model import RegistrationLimitSettings
from gateway.storage.redis.buckets import RedisBuckets
from gateway.storage.redis.client import RedisLink
from tests.accounts.application import ANN, PASSWORD, application, bearer, fields, problem, register
from tests.api.test_api_keys import register_admin
from tests.support.databases import Clock
from tests.support.gateways import Gateways
from tests.support.processes import Face, Gateway
from tests.support.valkey import shared_valkey

__all__ = ["shared_valkey"]

LIMITED = (429, "rate_limited")


def numbered(number: int, **changes: Any) -> dict[str, Any]:
    return ANN | {"email": f"user{number}@example.com"} | changes


async def passes(limit: RegistrationLimit, address: str = "192.0.2.1") -> bool:
    try:
        await limit.count(address)
    except Refusal as refusal:
        assert (refusal.status, refusal.code) == LIMITED and refusal.retry_after
        return False
    return True


# ---- counting


@pytest.mark.parametrize(("requests", "per"), [(60, 3600.0), (1, 60.0), (5, 0.5)])
async def test_so_many_pass_at_once_and_then_as_many_in_the_time(requests: int, per: float) -> None:
    clock = Clock()
    limit = RegistrationLimit(RegistrationLimitSettings(requests=requests, per=per), clock=clock)
    assert [await passes(limit) for _ in range(requests + 3)] == [True] * requests + [False] * 3
    clock.now += per / requests + 1e-6
    assert [await passes(limit) for _ in range(2)] == [True, False]
    clock.now += per
    assert [await passes(limit) for _ in range(requests + 1)] == [True] * requests + [False]


async def test_the_default_is_sixty_an_hour() -> None:
    clock = Clock()
    limit = RegistrationLimit(RegistrationLimitSettings(), clock=clock)
    assert sum([await passes(limit) for _ in range(1_500)]) == 60
    with pytest.raises(Refusal) as raised:
        await limit.count("192.0.2.1")
    assert 59 <= (raised.value.retry_after or 0) <= 60


@pytest.mark.parametrize(
    ("same", "other"),
    [
        (["192.0.2.1", "192.0.2.1", "::ffff:192.0.2.1"], "192.0.2.2"),
        (["2001:db8:1:2::1", "2001:db8:1:2:ffff::9", "2001:0db8:0001:0002::"], "2001:db8:1:3::1"),
        (["", "", "unknown"], "192.0.2.1"),
    ],
)
async def test_an_address_is_one_client_and_so_is_a_network_of_ipv6(same: list[str], other: str) -> None:
    limit = RegistrationLimit(RegistrationLimitSettings(requests=2, per=60.0))
    assert [await passes(limit, address) for address in same] == [True, True, False]
    assert await passes(limit, other)


async def test_without_a_limit_all_pass() -> None:
    limit = RegistrationLimit(None)
    assert all([await passes(limit) for _ in range(1_000)])


async def test_replicas_count_together_and_each_alone_while_redis_is_down(shared_valkey: ValkeyServer) -> None:
    settings = RegistrationLimitSettings(requests=10, per=3600.0)
    links = [RedisLink(shared_valkey.url, "installation") for _ in range(2)]
    for link in links:
        await link.open()
    try:
        replicas = [RegistrationLimit(settings, shared=RedisBuckets(link)) for link in links]
        outcomes = await asyncio.gather(*(passes(each) for _ in range(20) for each in replicas))
        assert sum(outcomes) == 10
        assert await passes(replicas[0], "192.0.2.2")
    finally:
        for link in links:
            await link.close()
    assert not await passes(replicas[1]), "what it learned, it keeps"
    assert await passes(replicas[1], "192.0.2.3")


# ---- attempts that count


@pytest.fixture
async def limited(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """An application with a limit of three registrations."""
    async with application(tmp_path, "sqlite://", registration_limit={"requests": 3, "per": "1h"}) as client:
        yield client


async def test_beyond_the_limit_the_answer_is_429_with_the_time_to_wait(limited: httpx.AsyncClient) -> None:
    for number in range(3):
        assert (await limited.post("/auth/register", json=numbered(number))).status_code == 201
    answer = await limited.post("/auth/register", json=numbered(3))
    assert problem(answer) == LIMITED
    assert answer.json()["detail"] == "Too many requests"
    assert 1_100 <= int(answer.headers["retry-after"]) <= 1_200
    login = numbered(3)
    assert problem(await limited.post("/auth/login", json=login)) == (401, "invalid_credentials"), "no account was made"


async def test_attempts_that_cost_a_hash_count_and_no_others(limited: httpx.AsyncClient) -> None:
    tokens = await register(limited)
    assert problem(await limited.post("/auth/register", json=ANN)) == (400, "email_taken")
    for bad in (numbered(1, password="short"), numbered(1, email="x"), numbered(1, roles=["admin"]), {}):
        assert fields(await limited.post("/auth/register", json=bad))
    assert problem(await limited.post("/auth/register", content=b"{"))[0] in (400, 415)
    assert (await limited.get("/auth/register")).status_code == 405
    assert (await limited.post("/auth/register", json=numbered(1))).status_code == 201
    assert problem(await limited.post("/auth/register", json=ANN)) == LIMITED, "nor is the address enumerated"
    assert fields(await limited.post("/auth/register", json={})), "which costs nothing and is told as before"
    assert (await limited.post("/auth/login", json=ANN)).status_code == 200
    assert (await limited.get("/auth/me", headers=bearer(tokens))).status_code == 200


async def test_refused_requests_cost_no_hash(tmp_path: Path) -> None:
    """At 12 rounds a hash takes a quarter of a second: twenty refusals take less than two hashes."""
    accounts: dict[str, Any] = {"password": {"bcrypt_rounds": 12}, "registration_limit": {"requests": 1, "per": "1h"}}
    async with application(tmp_path, "sqlite://", **accounts) as client:
        loop = asyncio.get_running_loop()
        started = loop.time()
        assert (await client.post("/auth/register", json=ANN)).status_code == 201
        one = loop.time() - started
        started = loop.time()
        answers = [await client.post("/auth/register", json=numbered(number)) for number in range(20)]
        assert {problem(answer) for answer in answers} == {LIMITED}
        assert loop.time() - started < 2 * one


async def test_accounts_that_an_administrator_makes_are_not_counted(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'gateway.db'}"
    async with application(tmp_path, url, registration_limit={"requests": 1, "per": "1h"}) as client:
        admin = await register_admin(client, url)
        assert problem(await client.post("/auth/register", json=ANN)) == LIMITED
        for number in range(3):
            answer = await client.post("/auth/users", json=numbered(number), headers=bearer(admin))
            assert answer.status_code == 201


# ---- over sockets


@pytest.fixture(scope="module")
def behind(gateways: Gateways, face: Face) -> Iterator[Gateway]:
    """A gateway behind a trusted proxy."""
    yield gateways.gateway(
        "registrations",
        face,
        server={"trusted_proxies": ["127.0.0.0/8"]},
        accounts={"registration_limit": {"requests": 4, "per": "1h"}},
    )


def test_clients_behind_a_trusted_proxy_are_counted_by_their_own_addresses(behind: Gateway) -> None:
    def registering(number: int, at: str) -> int:
        body = {"email": f"user{number}@{at.count(':')}.example", "password": PASSWORD}
        answer = behind.post("/auth/register", body, f"X-Forwarded-For: {at}")
        assert answer.status != 429 or (answer.code == "rate_limited" and int(answer.value("retry-after") or 0) > 0)
        return answer.status

    assert [registering(number, "198.51.100.1") for number in range(6)] == [201] * 4 + [429] * 2
    assert [registering(number, f"2001:db8::{number}") for number in range(6)] == [201] * 4 + [429] * 2
    assert registering(9, "198.51.100.2") == 201
    assert registering(10, "203.0.113.7, 198.51.100.1") == 429, "the client's own claim changes nothing"
