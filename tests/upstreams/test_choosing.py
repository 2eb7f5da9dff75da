"""Which targets requests go to and when they go to another, over real sockets: balancing, retries, ejection."""

import asyncio
from collections import Counter

import pytest

from gateway.settings.model import EjectSettings
from tests.support.fleet import OK, Fleet, Served, hang, reset, status, well
from tests.support.upstreams import Deaf, Refusing
from tests.upstreams.rig import ended, running, settings

pytestmark = pytest.mark.usefixtures("either_engine")

IDEMPOTENT = ("GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE")
NOT_IDEMPOTENT = ("POST", "PATCH", "LOCK")
OUT = EjectSettings(failures=5, for_=60.0)


# ---- balancing


@pytest.mark.parametrize("balance", ["round_robin", "least_requests"])
async def test_targets_share_the_requests(fleet: Fleet, balance: str) -> None:
    async with running(settings(*fleet.urls, balance=balance)) as rig:
        outcomes = await rig.ask_many(300, at_once=1)
    assert Counter(one.content for one in outcomes) == {b"a": 100, b"b": 100, b"c": 100}


async def test_least_requests_goes_around_a_target_that_is_slow(fleet: Fleet) -> None:
    fleet["a"].behaviour = lambda served: served.later(1.0, lambda: served.send(OK))
    async with running(settings(*fleet.urls, balance="least_requests")) as rig:
        outcomes = await rig.ask_many(300, at_once=6)
    assert Counter(one.status for one in outcomes) == {200: 300}
    assert fleet["a"].requests <= 6


# ---- what is sent again


@pytest.mark.parametrize("method", IDEMPOTENT)
async def test_an_idempotent_request_that_fails_at_one_target_goes_to_the_other(fleet: Fleet, method: str) -> None:
    fleet["a"].behaviour = reset
    async with running(settings(*fleet.urls[:2], eject=None)) as rig:
        outcomes = await rig.ask_many(10, method)
    assert {one.status for one in outcomes} == {200}
    assert fleet["a"].requests >= 5
    assert fleet["b"].requests == 10


@pytest.mark.parametrize("method", NOT_IDEMPOTENT)
async def test_any_other_request_is_sent_once(fleet: Fleet, method: str) -> None:
    fleet["a"].behaviour = reset
    async with running(settings(*fleet.urls[:2], eject=None)) as rig:
        outcomes = await rig.ask_many(10, method)
    assert Counter(one.code for one in outcomes) == {"upstream_unreachable": 5, "": 5}
    assert set(fleet.seen.values()) == {1}


@pytest.mark.parametrize("method", ["PUT", "DELETE", "POST"])
async def test_a_request_whose_body_was_sent_on_is_sent_once(fleet: Fleet, method: str) -> None:
    fleet.behave(reset)
    async with running(settings(*fleet.urls, eject=None)) as rig:
        outcomes = await rig.ask_many(9, method, body=b"x" * 1000)
    assert {one.code for one in outcomes} == {"upstream_unreachable"}
    assert set(fleet.seen.values()) == {1}


async def test_a_body_that_no_target_has_seen_goes_to_the_next_one(fleet: Fleet) -> None:
    """The dial fails before anything could be sent; what came of the body is still here."""
    refusing = Refusing()
    async with running(settings(refusing.url, fleet["a"].url, eject=None)) as rig:
        outcomes = await rig.ask_many(10, "PUT", body=b"x" * 1000)
    refusing.close()
    assert {one.status for one in outcomes} == {200}
    assert len(fleet["a"].seen) == 10


@pytest.mark.parametrize("sent", [b"H", b"HTTP/1.1 200 OK\r\nX-A:", b"HTTP/1.1 103 Hints\r\n\r\n"])
async def test_once_a_byte_of_an_answer_has_come_it_is_sent_once(fleet: Fleet, sent: bytes) -> None:
    def half(served: Served) -> None:
        served.send(sent)
        served.later(0.02, served.reset)

    fleet.behave(half)
    async with running(settings(*fleet.urls, eject=None)) as rig:
        outcomes = await rig.ask_many(6)
    assert {one.status for one in outcomes} == {502}
    assert set(fleet.seen.values()) == {1}


@pytest.mark.parametrize("number", [500, 502, 503, 504])
async def test_an_answer_is_an_answer(fleet: Fleet, number: int) -> None:
    """Whatever it says, it goes back: somebody may have worked for it."""
    fleet.behave(status(number))
    async with running(settings(*fleet.urls, eject=None)) as rig:
        outcomes = await rig.ask_many(9)
    assert [one.status for one in outcomes] == [number] * 9
    assert fleet.requests == 9


async def test_a_response_that_does_not_come_in_time_is_asked_for_once(fleet: Fleet) -> None:
    """It may be under way: whoever asks again makes a slow upstream slower."""
    fleet.behave(hang)
    async with running(settings(*fleet.urls, eject=None)) as rig:
        outcomes = await rig.ask_many(6, at_once=6, response_timeout=0.1)
    assert {one.code for one in outcomes} == {"upstream_timeout"}
    assert fleet.requests == 6


@pytest.mark.parametrize(("retries", "answered"), [(0, False), (1, False), (2, True), (5, True)])
async def test_it_is_sent_again_as_often_as_is_set(fleet: Fleet, retries: int, answered: bool) -> None:
    """With two of three targets dead, and the first two tried first."""
    fleet["a"].behaviour = fleet["b"].behaviour = reset
    async with running(settings(*fleet.urls, eject=None, retries=retries, balance="round_robin")) as rig:
        outcome = await rig.ask()
    assert (outcome.status == 200) == answered
    assert fleet.requests == min(retries, 2) + 1


async def test_what_fails_everywhere_is_told(fleet: Fleet) -> None:
    fleet.behave(reset)
    async with running(settings(*fleet.urls, eject=None, retries=10)) as rig:
        outcome = await rig.ask()
    assert (outcome.status, outcome.code) == (502, "upstream_unreachable")
    assert fleet.requests == 11


@pytest.mark.parametrize("targets", [1, 3])
@pytest.mark.parametrize("how", ["resets", "refuses"])
async def test_under_total_failure_attempts_stay_within_the_budget(fleet: Fleet, targets: int, how: str) -> None:
    requests = 500
    fleet.behave(reset)
    refusing = Refusing()
    urls = fleet.urls[:targets] if how == "resets" else [refusing.url] * targets
    async with running(settings(*urls, eject=None, retries=3)) as rig:
        attempts = Counter[str]()
        for pool in rig.engine.pools:  # type: ignore[attr-defined]
            submit = pool.submit

            def counting(*args, submit=submit, **named):  # type: ignore[no-untyped-def]
                attempts["all"] += 1
                submit(*args, **named)

            pool.submit = counting
        outcomes = await rig.ask_many(requests, at_once=16)
    refusing.close()
    assert {one.code for one in outcomes} == {"upstream_unreachable"}
    assert len(outcomes) * 1.2 <= attempts["all"] <= len(outcomes) * 1.2 + 20
    if how == "resets":
        assert fleet.requests <= len(outcomes) * 1.2 + 20


async def test_a_fleet_that_restarts_costs_idempotent_requests_nothing(fleet: Fleet) -> None:
    """All connections that were kept are stale at once."""
    async with running(settings(*fleet.urls)) as rig:
        for _ in range(4):
            outcomes = await rig.ask_many(60, at_once=20)
            assert {one.status for one in outcomes} == {200}
            for target in fleet.targets.values():
                await asyncio.to_thread(target.down)
                await asyncio.to_thread(target.up)


# ---- ejection

FAILING = {
    "it refuses": ("GET", None),
    "it resets": ("POST", reset),
    "it hangs": ("POST", hang),
    "it answers 502": ("GET", status(502)),
    "it answers 503": ("GET", status(503)),
    "it answers 504": ("GET", status(504)),
}


@pytest.mark.parametrize(("method", "behaviour"), FAILING.values(), ids=FAILING)
async def test_a_target_that_fails_five_times_in_a_row_is_left_out(fleet: Fleet, method: str, behaviour) -> None:  # type: ignore[no-untyped-def]
    bad, good = fleet["a"], fleet["b"]
    if behaviour is None:
        await asyncio.to_thread(bad.down)
    else:
        bad.behaviour = behaviour
    async with running(settings(*fleet.urls[:2], eject=OUT, retries=0)) as rig:
        outcomes = await rig.ask_many(10, method, at_once=1, response_timeout=0.05)
        assert [one.content == b"b" for one in outcomes] == [False, True] * 5
        outcomes = await rig.ask_many(20, method, at_once=4, response_timeout=5.0)
        assert [one.content for one in outcomes] == [b"b"] * 20
    assert good.requests == 25


@pytest.mark.parametrize("number", [200, 404, 429, 500, 501, 505])
async def test_other_answers_leave_nobody_out(fleet: Fleet, number: int) -> None:
    fleet["a"].behaviour = status(number)
    async with running(settings(*fleet.urls[:2], eject=EjectSettings(failures=1, for_=60.0))) as rig:
        await rig.ask_many(20, at_once=1)
    assert fleet["a"].requests == 10


async def test_without_ejection_nobody_is_left_out(fleet: Fleet) -> None:
    fleet["a"].behaviour = status(503)
    async with running(settings(*fleet.urls[:2], eject=None)) as rig:
        await rig.ask_many(40, at_once=1)
    assert fleet["a"].requests == 20


async def test_a_caller_that_leaves_says_nothing_about_the_target(fleet: Fleet) -> None:
    fleet["a"].behaviour = hang
    async with running(settings(fleet["a"].url, eject=EjectSettings(failures=1, for_=60.0))) as rig:
        for count in range(1, 6):
            _, exchange = rig.begin()
            while fleet["a"].requests < count:
                await asyncio.sleep(0.001)
            exchange.cancel()
        fleet["a"].behaviour = well
        assert (await rig.ask()).status == 200


async def test_when_all_are_out_callers_are_told_when_to_come_again(fleet: Fleet) -> None:
    fleet.behave(status(503))
    async with running(settings(*fleet.urls, eject=EjectSettings(failures=2, for_=7.0))) as rig:
        await rig.ask_many(6, at_once=1)
        outcome = await rig.ask()
    assert (outcome.status, outcome.code) == (503, "upstream_unavailable")
    assert outcome.refusal is not None
    assert outcome.refusal.retry_after in (6, 7)
    assert fleet.requests == 6


async def test_a_target_is_tried_again_after_its_time_and_left_out_at_its_next_failure(fleet: Fleet) -> None:
    bad = fleet["a"]
    bad.behaviour = status(503)
    async with running(settings(bad.url, eject=EjectSettings(failures=3, for_=0.2))) as rig:
        await rig.ask_many(3, at_once=1)
        for tried in (4, 5):
            assert (await rig.ask()).code == "upstream_unavailable"
            await asyncio.sleep(0.25)
            assert (await rig.ask()).status == 503
            assert bad.requests == tried
        bad.behaviour = well
        await asyncio.sleep(0.25)
        assert {one.status for one in await rig.ask_many(20)} == {200}


async def test_a_deaf_target_is_a_connect_error_and_the_other_answers(fleet: Fleet) -> None:
    deaf = Deaf()
    try:
        upstream = settings(deaf.url, fleet["a"].url, connect_timeout=0.1, eject=OUT)
        async with running(upstream) as rig:
            outcomes = await rig.ask_many(10, at_once=1)
            assert {one.status for one in outcomes} == {200}
            started = asyncio.get_running_loop().time()
            assert {one.status for one in await rig.ask_many(20, at_once=1)} == {200}
            assert asyncio.get_running_loop().time() - started < 0.5, "it is left out by now: not ten times 0.1 s"
    finally:
        deaf.close()


async def test_nothing_goes_to_a_dead_target_once_it_is_out(fleet: Fleet) -> None:
    """The connections that were kept to it are gone as well."""
    async with running(settings(*fleet.urls[:2], eject=OUT)) as rig:
        assert {one.status for one in await rig.ask_many(60, at_once=20)} == {200}
        fleet["a"].behaviour = reset
        assert {one.status for one in await rig.ask_many(200, at_once=20)} == {200}
        there = fleet["a"].requests
        assert {one.status for one in await rig.ask_many(200, "POST", at_once=20)} == {200}
        assert fleet["a"].requests == there


async def test_an_outcome_is_told_once_whoever_fails(fleet: Fleet) -> None:
    """`Outcome.done` may be set once: a second end would be an error of the loop."""
    errors: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
    behaviours = [reset, well, status(503), lambda served: served.send(OK[:20]), lambda served: served.close()]
    for number, behaviour in enumerate(behaviours):
        fleet["abc"[number % 3]].behaviour = behaviour
        async with running(settings(*fleet.urls, retries=2)) as rig:
            outcome, exchange = rig.begin("PUT", length=None, response_timeout=0.3)
            exchange.write(b"x")
            exchange.end_body()
            await ended(outcome)
            exchange.cancel()
    await asyncio.sleep(0.05)
    assert errors == []
