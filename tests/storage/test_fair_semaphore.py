"""Waiting for a database connection."""

import asyncio

import pytest

from gateway.errors import StorageUnavailable
from gateway.storage.fair_semaphore import FairSemaphore
from tests.support.waiting import within


async def waiting(semaphore: FairSemaphore, count: int, patience: float = 5.0) -> list[asyncio.Task[None]]:
    tasks = [asyncio.create_task(semaphore.enter(patience)) for _ in range(count)]
    await asyncio.sleep(0)
    return tasks


async def test_as_many_as_there_are_places_do_not_wait() -> None:
    semaphore = FairSemaphore(3)
    tasks = await waiting(semaphore, 5)
    await asyncio.sleep(0.01)
    assert [task.done() for task in tasks] == [True] * 3 + [False] * 2
    for task in tasks:
        task.cancel()


async def test_the_others_follow_in_their_order() -> None:
    semaphore = FairSemaphore(1)
    tasks = await waiting(semaphore, 4)
    for number in range(4):
        await asyncio.sleep(0)
        assert [task.done() for task in tasks] == [True] * (number + 1) + [False] * (3 - number)
        semaphore.leave()
    await semaphore.enter(0.0)


async def test_a_wait_that_takes_too_long_is_refused_and_takes_no_slot() -> None:
    semaphore = FairSemaphore(1)
    await semaphore.enter(1.0)
    with within(5.0), pytest.raises(StorageUnavailable, match="too many operations"):
        await semaphore.enter(0.05)
    semaphore.leave()
    await semaphore.enter(0.0)


async def test_patience_starts_again_with_each_success_where_that_is_wanted() -> None:
    semaphore = FairSemaphore(1, waits_for_progress=True)
    tasks = await waiting(semaphore, 6, patience=0.2)
    for _ in range(5):
        await asyncio.sleep(0.1)
        semaphore.leave(succeeded=True)
    await asyncio.wait_for(asyncio.gather(*tasks), 1.0)


async def test_a_place_that_a_failure_frees_is_no_progress() -> None:
    semaphore = FairSemaphore(1, waits_for_progress=True)
    tasks = await waiting(semaphore, 6, patience=0.2)
    for _ in range(5):
        await asyncio.sleep(0.1)
        semaphore.leave()
    outcomes = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 1.0)
    assert any(isinstance(outcome, StorageUnavailable) for outcome in outcomes)


async def test_a_cancelled_wait_takes_no_slot() -> None:
    semaphore = FairSemaphore(1)
    first, second, third = await waiting(semaphore, 3)
    second.cancel()
    await asyncio.sleep(0)
    semaphore.leave()
    await asyncio.wait_for(third, 1.0)
    assert first.done() and second.cancelled()


async def test_a_turn_that_comes_in_the_moment_its_owner_leaves_is_passed_on() -> None:
    semaphore = FairSemaphore(1)
    _, second, third = await waiting(semaphore, 3)
    semaphore.leave()
    second.cancel()
    await asyncio.wait_for(third, 1.0)
    assert second.cancelled()


async def test_all_waiting_callers_can_be_refused() -> None:
    semaphore = FairSemaphore(1)
    tasks = await waiting(semaphore, 4)
    semaphore.turn_away("it is gone")
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [str(outcome) for outcome in outcomes] == ["None"] + ["database: it is gone"] * 3
    late = await waiting(semaphore, 2)
    late[0].cancel()
    semaphore.turn_away("it is still gone")
    await asyncio.gather(*late, return_exceptions=True)
    semaphore.leave()
    await semaphore.enter(0.0)
