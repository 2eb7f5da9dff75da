"""Targets that fail and return under load."""

import asyncio
from collections import Counter

import pytest

from tests.support.fleet import OK, Fleet, Served
from tests.support.load import Load
from tests.support.processes import Face
from tests.support.small import Start
from tests.support.waiting import promised
from tests.support.wording import request

BOTH: tuple[Face, ...] = ("serve", "asgi")


def ask(method: str, path: str = "/web/x"):  # type: ignore[no-untyped-def]
    """Creates numbered requests."""
    body = b"body" if method in ("POST", "PUT") else None
    return lambda number: request(path, method=method, fields=[f"X-Id: {method}-{number}"], body=body)


def busy(served: Served) -> None:
    """Respond with the name of the target after a delay, so that requests are always in progress."""
    name = served.of.name.encode()
    served.later(0.005, lambda: served.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n" + name))


@pytest.mark.parametrize("balance", ["round_robin", "least_requests"])
@pytest.mark.parametrize("face", BOTH)
async def test_no_idempotent_request_fails_while_one_of_two_targets_dies_and_comes_back(
    start: Start, fleet: Fleet, face: Face, balance: str
) -> None:
    fleet.behave(busy)
    gateway = start({"web": {"targets": fleet.urls[:2], "balance": balance, "eject": {"for": "400ms"}}}, face)
    async with Load(gateway.address, ask("GET"), callers=16) as load:
        await load.more(300)
        for _ in range(2):
            await asyncio.to_thread(fleet["a"].down)
            await load.more(300)
            await asyncio.to_thread(fleet["a"].up)
            await load.more(300)
    assert load.lost == []
    assert load.statuses == {200: len(load.answers)}
    assert Counter(answer.body for answer in load.answers)[b"a"] > 100
    assert fleet["a"].requests > 0


async def test_no_other_request_is_sent_twice_and_none_fails_once_connecting_does(start: Start, fleet: Fleet) -> None:
    fleet.behave(busy)
    gateway = start({"web": {"targets": fleet.urls[:2]}})
    async with Load(gateway.address, ask("POST"), callers=16) as load:
        await load.more(300)
        await asyncio.to_thread(fleet["a"].down)
        await load.more(300)
        failed = load.statuses[502]
        await load.more(600)
    assert load.lost == []
    assert failed <= 16, "those that had been written when the target died"
    assert load.statuses == Counter({200: len(load.answers) - failed, 502: failed})
    assert set(fleet.seen.values()) == {1}


async def test_a_target_that_fails_slowly_delays_no_client_twice(start: Start, fleet: Fleet) -> None:
    """Timeouts are not retried, and eject."""
    fleet["a"].behaviour = lambda served: None
    upstream = {"targets": fleet.urls[:2], "response_timeout": "300ms"}
    gateway = start({"web": upstream})
    async with Load(gateway.address, ask("GET"), callers=8) as load:
        await load.more(800)
    late = load.statuses[504]
    assert 1 <= late <= 8 + 5
    assert load.statuses == {200: len(load.answers) - late, 504: late}
    assert set(fleet.seen.values()) == {1}


async def test_requests_fail_at_once_while_all_targets_are_dead_and_are_served_when_they_are_back(
    start: Start, fleet: Fleet
) -> None:
    gateway = start({"web": {"targets": fleet.urls[:2], "eject": {"for": "60s"}}})
    for name in "ab":
        await asyncio.to_thread(fleet[name].down)
    async with Load(gateway.address, ask("GET"), callers=8) as load:
        await load.more(400)
        assert set(load.statuses) == {502}
        for name in "ab":
            await asyncio.to_thread(fleet[name].up)
        before = len(load.answers)
        await load.more(400)
        late = [answer.status for answer in load.answers[before + 8 :]]
        assert set(late) == {200}


async def test_attempts_stay_within_the_budget_when_everything_fails(start: Start, fleet: Fleet) -> None:
    fleet.behave(lambda served: served.reset())
    gateway = start({"web": {"targets": fleet.urls, "eject": None, "retries": 3}})
    async with Load(gateway.address, ask("GET"), callers=16) as load:
        await load.more(600)
    assert load.statuses == {502: len(load.answers)}
    requests = len(load.answers)
    print(f"\n{requests} requests, all failing: {fleet.requests} attempts, {fleet.requests / requests:.3f} for each")
    assert fleet.requests <= 1.2 * requests + 20


async def test_a_slow_target_among_quick_ones_does_not_hold_up_the_others(start: Start, fleet: Fleet) -> None:
    fleet["a"].behaviour = lambda served: served.later(1.0, lambda: served.send(OK))
    gateway = start({"web": {"targets": fleet.urls, "balance": "least_requests"}})
    async with Load(gateway.address, ask("GET"), callers=9) as load:
        await load.more(500)
    assert load.statuses == {200: len(load.answers)}
    assert fleet["a"].requests <= 20
    assert load.percentile(0.9) < promised(0.5)
