"""Active health checks over real sockets: when a target is removed, and when it returns."""

import asyncio
from collections import Counter
from pathlib import Path

import pytest

from gateway.errors import ConfigurationError
from gateway.settings.model import EjectSettings, HealthSettings, TlsSettings
from tests.proxy.upstreams.harness import Harness, ended, running, settings
from tests.support.fleet import Behaviour, Fleet, Served, hang, naming, reset, status, well
from tests.support.upstreams import Authority
from tests.support.waiting import until

EVERY = 0.05


def checked(*targets: str, **values: object):  # type: ignore[no-untyped-def]
    """An upstream whose targets are checked twenty times a second."""
    timing = {"interval": EVERY, "timeout": 0.2, "fall": 3, "rise": 2}
    health = HealthSettings(path="/healthz?full=1", **timing | values)  # type: ignore[arg-type]
    return settings(*targets, health=health, eject=None, retries=0)


def only_checks(behaviour: Behaviour) -> Behaviour:
    """This behaviour for checks, and normal responses for requests."""
    return lambda served: (behaviour if served.target.startswith(b"/healthz") else naming)(served)


async def until_served_by(harness: Harness, *, up: set[str], within: float = 5.0) -> None:
    """Wait until requests go to exactly these targets."""
    async with asyncio.timeout(within):
        while True:
            outcomes = await harness.ask_many(6, at_once=1)
            if {one.content.decode() or one.code for one in outcomes} == up:
                return
            await asyncio.sleep(0.01)


SICK: dict[str, Behaviour] = {
    "404": status(404),
    "500": status(500),
    "503": status(503),
    "a reset": reset,
    "silence": hang,
    "a goodbye": lambda served: served.close(),
    "garbage": lambda served: served.send(b"SSH-2.0-OpenSSH_9.2\r\n\r\n"),
    "HTTP/2.0": lambda served: served.send(b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n"),
    "a head without end": lambda served: served.send(b"HTTP/1.1 200 OK\r\nX-A: " + b"x" * 70_000),
    "an upgrade": lambda served: served.send(b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"),
}


@pytest.mark.parametrize("behaviour", SICK.values(), ids=SICK)
async def test_a_target_whose_checks_fail_gets_no_requests_until_they_succeed(
    fleet: Fleet, behaviour: Behaviour
) -> None:
    async with running(checked(*fleet.urls[:2])) as harness:
        await until_served_by(harness, up={"a", "b"})
        fleet["a"].behaviour = only_checks(behaviour)
        await until_served_by(harness, up={"b"})
        fleet["a"].behaviour = naming
        await until_served_by(harness, up={"a", "b"})


WELL: dict[str, Behaviour] = {
    "200": well,
    "204": lambda served: served.send(b"HTTP/1.1 204 Fine\r\n\r\n"),
    "301": lambda served: served.send(b"HTTP/1.1 301 There\r\nLocation: /\r\nContent-Length: 0\r\n\r\n"),
    "a hint before": lambda served: served.send(
        b"HTTP/1.1 103 Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    ),
    "a body without end": lambda served: served.send(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 100_000),
    "a body that does not come": lambda served: served.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"),
    "HTTP/1.0": lambda served: served.send(b"HTTP/1.0 200 OK\r\n\r\n"),
}


@pytest.mark.parametrize("behaviour", WELL.values(), ids=WELL)
async def test_a_status_below_400_is_healthy_for_any_body(fleet: Fleet, behaviour: Behaviour) -> None:
    fleet["a"].behaviour = only_checks(behaviour)
    async with running(checked(fleet["a"].url, fall=1)) as harness:
        await until(lambda: fleet["a"].requests >= 6)
        assert (await harness.ask()).content == b"a"


async def test_a_check_identifies_itself_and_sends_the_configured_request(fleet: Fleet) -> None:
    heads: list[bytes] = []

    class Noting(Served):
        def _serve(self, head: bytes) -> None:
            heads.append(head)
            super()._serve(head)

    target = fleet["a"]
    await asyncio.to_thread(target.down)

    async def start() -> asyncio.Server:
        return await target.loop.create_server(lambda: Noting(target), *target.address)

    server = await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(start(), target.loop))
    try:
        async with running(checked(target.url)):
            await until(lambda: len(heads) >= 3)
    finally:
        target.loop.call_soon_threadsafe(server.close)
        await asyncio.to_thread(target.up)
    host = target.url.removeprefix("http://").encode()
    for head in heads:
        line, *fields = head.split(b"\r\n")
        assert line == b"GET /healthz?full=1 HTTP/1.1"
        assert fields == [b"Host: " + host, b"User-Agent: gateway-health-check", b"Connection: close"]


async def test_so_many_failures_take_it_out_and_so_many_successes_bring_it_back(fleet: Fleet) -> None:
    outcomes = iter("--+--" + "---" + "+-" + "++")
    seen: list[tuple[str, int]] = []

    def scripted(served: Served) -> None:
        outcome = next(outcomes, "+")
        seen.append((outcome, fleet["a"].requests))
        (well if outcome == "+" else status(500))(served)

    fleet["a"].behaviour = only_checks(scripted)
    async with running(checked(fleet["a"].url)) as harness:
        pool = harness.engine.pools[0]
        states: list[tuple[int, bool]] = []
        while len(seen) < 14:
            state = (len(seen), pool.health.is_up)
            if state not in states:
                states.append(state)
            await asyncio.sleep(0.002)
    settled = dict(states)
    assert all(settled[count] for count in range(1, 6))
    assert not any(settled[count] for count in range(8, 11))
    assert settled[13]


async def test_a_target_that_was_down_comes_back_when_it_is_up(fleet: Fleet) -> None:
    await asyncio.to_thread(fleet["a"].down)
    async with running(checked(*fleet.urls[:2])) as harness:
        await until_served_by(harness, up={"b"})
        await asyncio.to_thread(fleet["a"].up)
        await until_served_by(harness, up={"a", "b"})


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        ("silence", "no response within 200ms"),
        ("a goodbye", "(closed: end of file)"),
        ("garbage", "(not a status line: "),
        ("503", "with status 503"),
    ],
)
async def test_the_log_contains_the_reason_why_a_target_is_down(
    fleet: Fleet, caplog: pytest.LogCaptureFixture, behaviour: str, reason: str
) -> None:
    fleet["a"].behaviour = SICK[behaviour]
    timeout = 0.2 if behaviour == "silence" else 5.0
    async with running(checked(fleet["a"].url, fall=1, timeout=timeout)):
        await until(lambda: f"target {fleet['a'].url} is down: " in caplog.text)
    assert reason in caplog.text


async def test_the_log_contains_the_error_of_a_refused_connection(
    fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    await asyncio.to_thread(fleet["a"].down)
    async with running(checked(fleet["a"].url, fall=1)):
        await until(lambda: f"target {fleet['a'].url} is down: its checks fail ([Errno" in caplog.text)
    await asyncio.to_thread(fleet["a"].up)


async def test_with_all_targets_down_clients_receive_retry_after(fleet: Fleet) -> None:
    fleet.behave(only_checks(status(500)))
    async with running(checked(*fleet.urls, interval=1.0, fall=1, rise=3)) as harness:
        await until(lambda: not any(pool.health.is_up for pool in harness.engine.pools))
        outcome = await harness.ask()
    assert (outcome.status, outcome.code) == (503, "upstream_unavailable")
    assert outcome.refusal is not None
    assert outcome.refusal.retry_after == 3


async def test_checks_are_no_load(fleet: Fleet) -> None:
    """They count neither for load balancing nor for the connection limit, and do not queue."""
    fleet["a"].behaviour = only_checks(
        lambda served: served.later(0.1, lambda: served.send(b"HTTP/1.1 200 OK\r\n\r\n"))
    )
    async with running(checked(fleet["a"].url, timeout=1.0)) as harness:
        pool = harness.engine.pools[0]
        for _ in range(30):
            assert (pool.load, harness.engine.open_connections) == (0, 0)
            await asyncio.sleep(0.01)
    assert fleet["a"].requests > 0


async def test_a_target_with_all_connections_busy_is_not_sick(fleet: Fleet) -> None:
    fleet["a"].behaviour = lambda served: well(served) if served.target.startswith(b"/healthz") else None
    async with running(checked(fleet["a"].url, fall=1)) as harness:
        outcome, exchange = harness.begin()
        await until(lambda: fleet["a"].requests > 5)
        assert not outcome.done.done()
        assert harness.engine.pools[0].health.is_up
        exchange.cancel()


async def test_checks_end_with_the_engine(fleet: Fleet) -> None:
    async with running(checked(*fleet.urls)) as harness:
        await until(lambda: fleet.requests)
        harness.engine.close()
        await asyncio.sleep(EVERY)
        before = fleet.requests
        assert before > 0
        await asyncio.sleep(6 * EVERY)
        assert fleet.requests == before


async def test_checks_leave_no_connection_behind(fleet: Fleet) -> None:
    fleet.behave(hang)
    async with running(checked(*fleet.urls, timeout=0.05)):
        await until(lambda: all(target.accepted > 3 for target in fleet.targets.values()))
    for target in fleet.targets.values():
        assert target.accepted > 3
        await asyncio.to_thread(target.idle)


async def test_a_target_returned_by_its_checks_starts_slowly(fleet: Fleet) -> None:
    await asyncio.to_thread(fleet["a"].down)
    async with running(checked(*fleet.urls[:2])) as harness:
        await until_served_by(harness, up={"b"})
        await asyncio.to_thread(fleet["a"].up)
        await until_served_by(harness, up={"a", "b"})
        outcomes = await harness.ask_many(200)
    shares = Counter(one.content for one in outcomes)
    assert 0 < shares[b"a"] < 80


async def test_targets_behind_tls_are_checked_as_they_are_asked(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    fleet = Fleet("ab", tls=authority.context("orders.internal"))
    try:
        for name, up in (("orders.internal", True), ("billing.internal", False)):
            upstream = checked(fleet["a"].url, fall=1)
            object.__setattr__(upstream, "tls", TlsSettings(ca=str(authority.file), server_name=name))
            async with running(upstream) as harness:
                await until(lambda: fleet["a"].requests if up else not harness.engine.pools[0].health.is_up)  # noqa: B023
                assert harness.engine.pools[0].health.is_up is up
                assert (await harness.ask()).status == (200 if up else 503)
    finally:
        fleet.stop()


async def test_checks_and_ejection_go_together(fleet: Fleet) -> None:
    """The next passed check ends the ejection of a target whose requests fail."""
    fleet["a"].behaviour = only_checks(well)
    upstream = checked(*fleet.urls[:2], interval=1.0)
    object.__setattr__(upstream, "eject", EjectSettings(failures=2, for_=60.0, statuses=frozenset({503})))
    async with running(upstream) as harness:
        fleet["a"].behaviour = lambda served: (well if served.target.startswith(b"/healthz") else status(503))(served)
        assert Counter(one.status for one in await harness.ask_many(40, at_once=1)) == {503: 2, 200: 38}
        fleet["a"].behaviour = naming
        await until_served_by(harness, up={"a", "b"})


async def test_a_response_during_the_wait_for_a_check_belongs_to_no_other(fleet: Fleet) -> None:
    """The timeout of a check closes its connection, so later bytes answer no other request."""
    fleet["a"].behaviour = only_checks(
        lambda served: served.later(0.15, lambda: served.send(b"HTTP/1.1 200 LATE\r\n\r\n"))
    )
    async with running(checked(fleet["a"].url, timeout=0.05, fall=1000)) as harness:
        for _ in range(20):
            outcome, _ = harness.begin()
            assert (await ended(outcome)).content == b"a"
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("path", ["healthz", "http://x/y", "/a b", "/a\r\nX: 1", "/ä", "/a#b", "/a%zz", "/{x}"])
def test_a_path_that_no_request_line_can_hold_is_an_error(tmp_path: Path, path: str) -> None:
    import json

    from gateway.policy.loader import load_configuration

    upstream = {"targets": ["http://127.0.0.1:1"], "health": {"path": path}}
    file = tmp_path / "g.yaml"
    file.write_text(json.dumps({"upstreams": {"web": upstream}, "routes": [{"path": "/**", "upstream": "web"}]}))
    with pytest.raises(ConfigurationError, match=r"upstreams\.web\.health\.path"):
        load_configuration(file, {})
