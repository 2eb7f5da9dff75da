"""Choosing targets over real sockets: load balancing, retries, ejection."""

import asyncio
import time
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import pytest

from gateway.samples import Sample
from gateway.settings.model import EjectSettings, TlsSettings
from tests.proxy.upstreams.harness import Harness, ended, running, sending_first, settings
from tests.support.fleet import OK, Behaviour, Fleet, Served, hang, reset, status, well
from tests.support.listening import listening, small_listener
from tests.support.upstreams import Authority, FullBacklog, Refusing
from tests.support.waiting import until

pytestmark = pytest.mark.usefixtures("either_engine")

IDEMPOTENT = ("GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE")
NOT_IDEMPOTENT = ("POST", "PATCH", "LOCK")
OUT = EjectSettings(failures=5, for_=60.0)
COUNTED = EjectSettings(failures=5, for_=60.0, statuses=frozenset({502, 503, 504}))


# ---- load balancing


@pytest.mark.parametrize("balance", ["round_robin", "least_requests"])
async def test_targets_share_the_requests(fleet: Fleet, balance: str) -> None:
    async with running(settings(*fleet.urls, balance=balance)) as harness:
        outcomes = await harness.ask_many(60, at_once=1)
    assert Counter(one.content for one in outcomes) == {b"a": 20, b"b": 20, b"c": 20}


async def test_the_requests_of_each_target_are_counted_with_their_retries(fleet: Fleet) -> None:
    fleet["a"].behaviour = reset
    async with running(settings(*fleet.urls, eject=None)) as harness:
        await harness.ask_many(30, at_once=1)
        counts: Counter[tuple[str, ...]] = Counter()
        for family, labels, value in harness.engine.samples(0.0):
            if family == "gateway_upstream_requests_total":
                assert isinstance(value, int)
                counts[labels] += value
    assert counts == {("web", target.url): target.requests for target in fleet.targets.values()}
    assert sum(target.requests for target in fleet.targets.values()) > 30


async def test_least_requests_goes_around_a_target_that_is_slow(fleet: Fleet) -> None:
    """The slow target answers after all requests that the others can take."""
    waiting: list[Served] = []
    fleet["a"].behaviour = waiting.append
    async with running(settings(*fleet.urls, balance="least_requests")) as harness:
        asking = asyncio.create_task(harness.ask_many(300, at_once=6))
        await until(lambda: fleet["b"].requests + fleet["c"].requests + len(waiting) == 300, within=30.0)
        for served in waiting:
            fleet.loop.call_soon_threadsafe(served.send, OK)
        outcomes = await asking
    assert Counter(one.status for one in outcomes) == {200: 300}
    assert 1 <= fleet["a"].requests <= 3


# ---- retries


@pytest.mark.parametrize("method", IDEMPOTENT)
async def test_an_idempotent_request_that_fails_at_one_target_goes_to_the_other(fleet: Fleet, method: str) -> None:
    fleet["a"].behaviour = reset
    async with running(settings(*fleet.urls[:2], eject=None)) as harness:
        outcomes = await harness.ask_many(10, method)
    assert {one.status for one in outcomes} == {200}
    assert fleet["a"].requests >= 5
    assert fleet["b"].requests == 10


@pytest.mark.parametrize("method", NOT_IDEMPOTENT)
async def test_any_other_request_is_sent_once(fleet: Fleet, method: str) -> None:
    fleet["a"].behaviour = reset
    async with running(settings(*fleet.urls[:2], eject=None)) as harness:
        outcomes = await harness.ask_many(10, method)
    assert Counter(one.code for one in outcomes) == {"upstream_unreachable": 5, "": 5}
    assert set(fleet.seen.values()) == {1}


@pytest.mark.parametrize("method", ["PUT", "DELETE", "POST"])
async def test_a_request_whose_body_was_sent_on_is_sent_once(fleet: Fleet, method: str) -> None:
    fleet.behave(reset)
    async with running(settings(*fleet.urls, eject=None)) as harness:
        outcomes = await harness.ask_many(9, method, body=b"x" * 1000)
    assert {one.code for one in outcomes} == {"upstream_unreachable"}
    assert set(fleet.seen.values()) == {1}


@pytest.mark.parametrize("method", [*IDEMPOTENT, *NOT_IDEMPOTENT])
async def test_any_request_goes_to_the_next_target_where_nothing_was_written(fleet: Fleet, method: str) -> None:
    refusing = Refusing()
    async with running(settings(refusing.url, fleet["a"].url, eject=None)) as harness:
        outcomes = await harness.ask_many(10, method, body=b"x" * 1000)
    refusing.close()
    assert {one.status for one in outcomes} == {200}
    assert list(fleet["a"].seen.values()) == [1] * 10


async def test_a_chunked_upload_goes_to_the_next_target_whole(fleet: Fleet) -> None:
    """A part of its body has arrived before the connection fails."""
    refusing, bodies = Refusing(), list[bytes]()

    def keep(served: Served) -> None:
        bodies.append(served.body)
        served.send(OK)

    fleet["a"].behaviour = keep
    async with running(settings(refusing.url, fleet["a"].url, eject=None)) as harness:
        outcome, exchange = harness.begin("POST", length=None)
        exchange.write(b"first")
        await until(lambda: fleet["a"].accepted)
        exchange.write(b"second")
        exchange.end_body()
        assert (await ended(outcome)).status == 200
    refusing.close()
    (body,) = bodies
    assert body in (b"5\r\nfirst\r\n6\r\nsecond\r\n0\r\n\r\n", b"b\r\nfirstsecond\r\n0\r\n\r\n")


async def test_a_post_goes_to_the_next_target_when_connecting_takes_too_long(fleet: Fleet) -> None:
    full_backlog = FullBacklog()
    async with running(settings(full_backlog.url, fleet["a"].url, eject=None, connect_timeout=0.2)) as harness:
        outcomes = await harness.ask_many(4, "POST", body=b"x", at_once=4)
    full_backlog.close()
    assert {one.status for one in outcomes} == {200}
    assert list(fleet["a"].seen.values()) == [1] * 4


async def test_a_post_goes_to_the_next_target_when_the_name_is_unknown(fleet: Fleet) -> None:
    async with running(settings("http://nowhere.invalid:80", fleet["a"].url, eject=None)) as harness:
        outcomes = await harness.ask_many(2, "POST", body=b"x", at_once=1)
    assert {one.status for one in outcomes} == {200}


async def test_a_post_goes_to_the_next_target_when_the_certificate_is_wrong(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    wrong, right = (Fleet("a", tls=authority.context(name)) for name in ("billing.internal", "orders.internal"))
    tls = TlsSettings(ca=str(authority.file), server_name="orders.internal")
    try:
        async with running(settings(*wrong.urls, *right.urls, eject=None, tls=tls)) as harness:
            outcomes = await harness.ask_many(4, "POST", body=b"x", at_once=1)
        assert {one.status for one in outcomes} == {200}
        assert (wrong.requests, right.requests) == (0, 4)
    finally:
        wrong.stop()
        right.stop()


@pytest.mark.parametrize("how", ["no retries", "one target"])
async def test_a_post_that_no_target_accepts_is_refused(fleet: Fleet, how: str) -> None:
    refusing = Refusing()
    urls = (refusing.url, fleet["a"].url) if how == "no retries" else (refusing.url,)
    async with running(settings(*urls, eject=None, retries=0 if how == "no retries" else 5)) as harness:
        outcome = await harness.ask("POST", body=b"x")
    refusing.close()
    assert (outcome.status, outcome.code) == (502, "upstream_unreachable")


def total(samples: Iterable[Sample], family: str) -> float:
    values = [sample.value for sample in samples if sample.family == family]
    return sum(value for value in values if isinstance(value, float | int))


async def test_posts_that_were_not_written_stay_within_the_retry_budget(fleet: Fleet) -> None:
    refusing = Refusing()
    async with running(settings(refusing.url, fleet["a"].url, eject=None, retry_budget=0.1)) as harness:
        outcomes = await harness.ask_many(400, "POST", body=b"x", at_once=1)
        retried = total(harness.engine.samples(0.0), "gateway_upstream_retries_total")
    refusing.close()
    assert 20 + 0.1 * 300 < retried <= 20 + 0.1 * 400
    assert {one.code for one in outcomes} == {"", "upstream_unreachable"}


@pytest.mark.parametrize("sent", [b"H", b"HTTP/1.1 200 OK\r\nX-A:", b"HTTP/1.1 103 Hints\r\n\r\n"])
async def test_once_a_byte_of_an_answer_has_come_it_is_sent_once(fleet: Fleet, sent: bytes) -> None:
    def half(served: Served) -> None:
        served.send(sent)
        served.later(0.02, served.reset)

    fleet.behave(half)
    async with running(settings(*fleet.urls, eject=None)) as harness:
        outcomes = await harness.ask_many(6)
    assert {one.status for one in outcomes} == {502}
    assert set(fleet.seen.values()) == {1}


@pytest.mark.parametrize("number", [500, 502, 503, 504])
async def test_an_answer_is_an_answer(fleet: Fleet, number: int) -> None:
    """Every response is forwarded, because the upstream can have processed the request."""
    fleet.behave(status(number))
    async with running(settings(*fleet.urls, eject=None)) as harness:
        outcomes = await harness.ask_many(9)
    assert [one.status for one in outcomes] == [number] * 9
    assert fleet.requests == 9


async def test_a_response_that_does_not_come_in_time_is_asked_for_once(fleet: Fleet) -> None:
    """The target can still be working on it: a retry would make a slow upstream slower."""
    fleet.behave(hang)
    async with running(settings(*fleet.urls, eject=None)) as harness:
        outcomes = await harness.ask_many(6, at_once=6, response_timeout=0.1)
    assert {one.code for one in outcomes} == {"upstream_timeout"}
    assert fleet.requests == 6


@pytest.mark.parametrize(("retries", "answered"), [(0, False), (1, False), (2, True), (5, True)])
async def test_it_is_sent_again_as_often_as_is_set(fleet: Fleet, retries: int, answered: bool) -> None:
    """With two of three targets down, and these two tried first."""
    fleet["a"].behaviour = fleet["b"].behaviour = reset
    async with running(settings(*fleet.urls, eject=None, retries=retries, balance="round_robin")) as harness:
        outcome = await harness.ask()
    assert (outcome.status == 200) == answered
    assert fleet.requests == min(retries, 2) + 1


async def test_a_failure_of_all_targets_is_reported(fleet: Fleet) -> None:
    fleet.behave(reset)
    async with running(settings(*fleet.urls, eject=None, retries=10)) as harness:
        outcome = await harness.ask()
    assert (outcome.status, outcome.code) == (502, "upstream_unreachable")
    assert fleet.requests == 11


@pytest.mark.parametrize("targets", [1, 3])
@pytest.mark.parametrize("how", ["resets", "refuses"])
async def test_under_total_failure_attempts_stay_within_the_budget(fleet: Fleet, targets: int, how: str) -> None:
    fleet.behave(reset)
    refusing = Refusing()
    urls = fleet.urls[:targets] if how == "resets" else [refusing.url] * targets
    async with running(settings(*urls, eject=None, retries=3)) as harness:
        outcomes = await harness.ask_many(150, at_once=16)
        attempts = sum(pool.submitted for pool in harness.engine.pools)
    refusing.close()
    assert {one.code for one in outcomes} == {"upstream_unreachable"}
    assert len(outcomes) * 1.2 <= attempts <= len(outcomes) * 1.2 + 20
    if how == "resets":
        assert fleet.requests <= len(outcomes) * 1.2 + 20


async def test_a_fleet_that_restarts_costs_idempotent_requests_nothing(fleet: Fleet) -> None:
    """All pooled connections become stale at once."""
    async with running(settings(*fleet.urls)) as harness:
        for _ in range(4):
            outcomes = await harness.ask_many(60, at_once=20)
            assert {one.status for one in outcomes} == {200}
            for target in fleet.targets.values():
                await asyncio.to_thread(target.down)
                await asyncio.to_thread(target.up)


# ---- ejection

FAILING: dict[str, tuple[str, Behaviour | None]] = {
    "it refuses": ("GET", None),
    "it resets": ("POST", reset),
    "it hangs": ("POST", hang),
    "it closes": ("POST", lambda served: served.close()),
    "it speaks SSH": ("GET", lambda served: served.send(b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n")),
    "it speaks SMTP": ("GET", lambda served: served.send(b"220 mail.example ESMTP\r\n")),
    "it speaks TLS": ("GET", lambda served: served.send(b"\x15\x03\x03\x00\x02\x02\x46")),
    "it speaks HTTP/2": ("GET", lambda served: served.send(b"\x00\x00\x00\x04\x00\x00\x00\x00\x00")),
    "it answers 502": ("GET", status(502)),
    "it answers 503": ("GET", status(503)),
    "it answers 504": ("GET", status(504)),
}


@pytest.mark.parametrize(("method", "behaviour"), FAILING.values(), ids=FAILING)
async def test_a_target_that_fails_five_times_in_a_row_is_ejected(
    fleet: Fleet, method: str, behaviour: Behaviour | None
) -> None:
    bad, good = fleet["a"], fleet["b"]
    if behaviour is None:
        await asyncio.to_thread(bad.down)
    else:
        bad.behaviour = behaviour
    async with running(settings(*fleet.urls[:2], eject=COUNTED, retries=0, response_timeout=0.05)) as harness:
        outcomes = await harness.ask_many(10, method, at_once=1, response_timeout=0.05)
        assert [one.content == b"b" for one in outcomes] == [False, True] * 5
        outcomes = await harness.ask_many(20, method, at_once=4, response_timeout=5.0)
        assert [one.content for one in outcomes] == [b"b"] * 20
    assert good.requests == 25


async def test_a_target_that_sends_a_banner_at_once_is_ejected(fleet: Fleet) -> None:
    """Half of the requests would fail permanently."""
    async with (
        listening(sending_first(b"SSH-2.0-OpenSSH_9.2p1\r\n")) as port,
        running(settings(f"http://127.0.0.1:{port}", fleet["b"].url, eject=OUT)) as harness,
    ):
        outcomes = await harness.ask_many(200, at_once=4)
    failed = Counter(one.code for one in outcomes)["upstream_invalid"]
    assert 1 <= failed <= 5 + 4
    assert {one.status for one in outcomes[40:]} == {200}


@pytest.mark.parametrize("number", [200, 404, 429, 500, 501, 502, 503, 504, 505])
async def test_a_status_does_not_eject_by_default(fleet: Fleet, number: int) -> None:
    """It can be the response of one endpoint, and ejection would affect all others."""
    fleet["a"].behaviour = status(number)
    async with running(settings(*fleet.urls[:2], eject=EjectSettings(failures=1, for_=60.0))) as harness:
        await harness.ask_many(20, at_once=1)
    assert fleet["a"].requests == 10


@pytest.mark.parametrize("number", [200, 404, 500, 501, 503])
async def test_only_the_named_statuses_eject(fleet: Fleet, number: int) -> None:
    fleet["a"].behaviour = status(number)
    eject = EjectSettings(failures=1, for_=60.0, statuses=frozenset({500, 503}))
    async with running(settings(*fleet.urls[:2], eject=eject)) as harness:
        await harness.ask_many(20, at_once=1)
    assert fleet["a"].requests == (1 if number in (500, 503) else 10)


MALFORMED: dict[str, bytes] = {
    "a head that is too large": b"HTTP/1.1 200 OK\r\nX-A: %b\r\n\r\n" % (b"x" * 70_000),
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
    "an unknown coding": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
}


@pytest.mark.parametrize("sent", MALFORMED.values(), ids=MALFORMED)
async def test_a_malformed_head_of_http_does_not_eject(fleet: Fleet, sent: bytes) -> None:
    """It can be the response of one endpoint."""
    fleet["a"].behaviour = lambda served: served.send(sent)
    async with running(settings(*fleet.urls[:2], eject=EjectSettings(failures=1, for_=60.0))) as harness:
        outcomes = await harness.ask_many(20, at_once=1)
    assert Counter(one.code for one in outcomes) == {"upstream_invalid": 10, "": 10}


@pytest.mark.parametrize("general", [30.0, None], ids=["30 s", "none"])
async def test_a_routes_own_shorter_time_limit_does_not_eject(fleet: Fleet, general: float | None) -> None:
    fleet["a"].behaviour = hang
    eject = EjectSettings(failures=1, for_=60.0)
    async with running(settings(*fleet.urls[:2], eject=eject, response_timeout=general)) as harness:
        outcomes = await harness.ask_many(8, at_once=8, response_timeout=0.05)
        assert Counter(one.code for one in outcomes) == {"upstream_timeout": 4, "": 4}
        fleet["a"].behaviour = well
        assert {one.status for one in await harness.ask_many(8, at_once=1)} == {200}
    assert fleet["a"].requests == 8


@pytest.mark.parametrize("own", [0.05, 0.2])
async def test_a_route_with_the_time_limit_of_its_upstream_or_a_longer_one_ejects(fleet: Fleet, own: float) -> None:
    fleet["a"].behaviour = hang
    eject = EjectSettings(failures=1, for_=60.0)
    async with running(settings(*fleet.urls[:2], eject=eject, response_timeout=0.05)) as harness:
        await harness.ask_many(2, at_once=2, response_timeout=own)
        assert {one.content for one in await harness.ask_many(8, at_once=1)} == {b"b"}


async def test_a_target_that_reads_no_upload_is_ejected_for_any_limit_of_the_route(fleet: Fleet) -> None:
    """The upstream's `idle_timeout` limits the time in which the target does not read."""
    size = 32 << 20
    listener = small_listener()
    unread = f"http://127.0.0.1:{listener.getsockname()[1]}"
    eject = EjectSettings(failures=1, for_=60.0)
    async with running(settings(unread, fleet["b"].url, eject=eject, idle_timeout=0.2)) as harness:
        outcome, exchange = harness.begin("PUT", length=size, response_timeout=0.05)
        exchange.write(b"x" * size)
        exchange.end_body()
        assert (await ended(outcome)).code == "upstream_timeout"
        assert {one.content for one in await harness.ask_many(8, at_once=1)} == {b"b"}
    listener.close()


async def test_without_ejection_no_target_is_ejected(fleet: Fleet) -> None:
    fleet["a"].behaviour = reset
    async with running(settings(*fleet.urls[:2], eject=None, retries=0)) as harness:
        await harness.ask_many(40, at_once=1)
    assert fleet["a"].requests == 20


async def test_a_client_that_disconnects_does_not_count_against_the_target(fleet: Fleet) -> None:
    fleet["a"].behaviour = hang
    async with running(settings(fleet["a"].url, eject=EjectSettings(failures=1, for_=60.0))) as harness:
        for count in range(1, 6):
            _, exchange = harness.begin()
            await until(lambda: fleet["a"].requests >= count)  # noqa: B023
            exchange.cancel()
        fleet["a"].behaviour = well
        assert (await harness.ask()).status == 200


@pytest.mark.parametrize("targets", [1, 2, 3])
async def test_an_upstream_whose_targets_all_fail_is_used_again_at_once_when_they_are_back(
    fleet: Fleet, targets: int
) -> None:
    """A restart of 0.3 s must not become an outage as long as an ejection."""
    urls = fleet.urls[:targets]
    async with running(settings(*urls, eject=EjectSettings(failures=1, for_=60.0))) as harness:
        for target in list(fleet.targets.values())[:targets]:
            await asyncio.to_thread(target.down)
        outcomes = await harness.ask_many(30, at_once=3)
        assert {one.code for one in outcomes} == {"upstream_unreachable"}
        for target in list(fleet.targets.values())[:targets]:
            await asyncio.to_thread(target.up)
        assert {one.status for one in await harness.ask_many(30, at_once=3)} == {200}


async def test_all_targets_get_requests_while_fewer_than_half_are_usable(fleet: Fleet) -> None:
    fleet["a"].behaviour = fleet["b"].behaviour = reset
    async with running(settings(*fleet.urls, eject=EjectSettings(failures=1, for_=60.0), retries=0)) as harness:
        await harness.ask_many(30, at_once=1)
        assert {name: sample(harness, "gateway_upstream_target_ejected", name) for name in fleet.urls} == {
            fleet["a"].url: 1,
            fleet["b"].url: 1,
            fleet["c"].url: 0,
        }
        assert sample(harness, "gateway_upstream_panic") == 1
    assert {name: target.requests for name, target in fleet.targets.items()} == {"a": 10, "b": 10, "c": 10}


async def test_the_last_usable_target_shows_as_failing(fleet: Fleet) -> None:
    url = fleet["a"].url
    fleet["a"].behaviour = reset
    async with running(settings(url, eject=EjectSettings(failures=2, for_=60.0), retries=0)) as harness:
        for failing in (0, 1, 1):
            await harness.ask()
            assert sample(harness, "gateway_upstream_target_failing", url) == failing
        assert sample(harness, "gateway_upstream_target_ejected", url) == 0
        fleet["a"].behaviour = well
        await harness.ask()
        assert sample(harness, "gateway_upstream_target_failing", url) == 0


def sample(harness: Harness, family: str, *target: str) -> float:
    samples = harness.engine.samples(asyncio.get_running_loop().time())
    (value,) = [each.value for each in samples if each.family == family and each.labels == ("web", *target)]
    assert isinstance(value, int)
    return value


async def test_a_target_is_tried_again_after_its_time_and_ejected_at_its_next_failure(fleet: Fleet) -> None:
    bad, tried = fleet["a"], list[float]()

    def fail(served: Served) -> None:
        tried.append(time.monotonic())
        status(503)(served)

    bad.behaviour = fail
    eject = EjectSettings(failures=3, for_=0.2, statuses=frozenset({503}))
    async with (
        running(settings(*fleet.urls[:2], eject=eject, balance="least_requests")) as harness,
        asyncio.timeout(30),
    ):
        while len(tried) < 5:
            assert (await harness.ask()).status in (200, 503)
            await asyncio.sleep(0.001)
        bad.behaviour = well
        while bad.requests < 10:
            assert (await harness.ask()).status == 200
            await asyncio.sleep(0.001)
    assert all(later - earlier >= 0.2 for earlier, later in pairwise(tried[2:]))


async def test_a_target_with_a_full_backlog_is_a_connect_error_and_the_other_answers(fleet: Fleet) -> None:
    full_backlog = FullBacklog()
    try:
        upstream = settings(full_backlog.url, fleet["a"].url, connect_timeout=0.1, eject=OUT)
        async with running(upstream) as harness:
            outcomes = await harness.ask_many(10, at_once=1)
            assert {one.status for one in outcomes} == {200}
            retried = total(harness.engine.samples(0.0), "gateway_upstream_retries_total")
            assert retried == 5
            assert {one.status for one in await harness.ask_many(20, at_once=1)} == {200}
            assert total(harness.engine.samples(0.0), "gateway_upstream_retries_total") == retried, "it is ejected"
    finally:
        full_backlog.close()


async def test_nothing_goes_to_a_dead_target_once_it_is_out(fleet: Fleet) -> None:
    """The pooled connections to it are closed too."""
    async with running(settings(*fleet.urls[:2], eject=OUT)) as harness:
        assert {one.status for one in await harness.ask_many(60, at_once=20)} == {200}
        fleet["a"].behaviour = reset
        assert {one.status for one in await harness.ask_many(200, at_once=20)} == {200}
        there = fleet["a"].requests
        assert {one.status for one in await harness.ask_many(200, "POST", at_once=20)} == {200}
        assert fleet["a"].requests == there


async def test_an_outcome_is_reported_once_for_every_failure(fleet: Fleet) -> None:
    """`Outcome.done` can be set only once: a second end would be an error of the event loop."""
    errors: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
    behaviours = [reset, well, status(503), lambda served: served.send(OK[:20]), lambda served: served.close()]
    for number, behaviour in enumerate(behaviours):
        fleet["abc"[number % 3]].behaviour = behaviour
        async with running(settings(*fleet.urls, retries=2)) as harness:
            outcome, exchange = harness.begin("PUT", length=None, response_timeout=0.3)
            exchange.write(b"x")
            exchange.end_body()
            await ended(outcome)
            exchange.cancel()
    await asyncio.sleep(0.05)
    assert errors == []
