"""Names of targets: asked anew for each connection, all of their addresses tried, one question at a time."""

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.proxy.dialling import Dialler, Lookup
from gateway.proxy.target import Target, target_of
from gateway.settings.model import TlsSettings
from tests.support.fleet import Fleet
from tests.support.upstreams import Authority, Deaf
from tests.upstreams.rig import running, settings


@pytest.fixture
def everywhere() -> Iterator[Fleet]:
    """A target that listens on every address of 127.0.0.0/8, so that each can stand for another machine."""
    fleet = Fleet("a", host="0.0.0.0")
    yield fleet
    fleet.stop()


class Names:
    """A name service: `answers` are the addresses that the next questions get; a question takes `pause` seconds."""

    def __init__(self, *answers: list[str], pause: float = 0.0) -> None:
        self.answers = list(answers)
        self.pause = pause
        self.asked: list[tuple[str, int]] = []

    async def __call__(self, host: str, port: int) -> list[str]:
        self.asked.append((host, port))
        await asyncio.sleep(self.pause)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if not answer:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return answer


def dialler(target: Target, lookup: Lookup | None) -> Dialler:
    return Dialler(target, asyncio.get_running_loop(), lookup)


def named(port: int) -> Target:
    return Target("orders.internal", port, None, None, f"orders.internal:{port}")


class Reached(asyncio.Protocol):
    """A connection; `peers` are the addresses that were connected to."""

    peers: list[str]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.peers.append(transport.get_extra_info("peername")[0])
        transport.close()


async def dialled(one: Dialler, times: int = 1, patience: float = 2.0) -> list[str]:
    """The addresses that so many dials came to, one after another."""

    class Here(Reached):
        peers: list[str] = []  # of this call

    for _ in range(times):
        await one.dial(Here, patience)
    return Here.peers


async def test_a_name_is_asked_for_anew_each_time(everywhere: Fleet) -> None:
    names = Names(["127.0.0.1"], ["127.0.0.2"], ["127.0.0.3"])
    port = everywhere["a"].address[1]
    assert await dialled(dialler(named(port), names), 4) == ["127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.3"]
    assert names.asked == [("orders.internal", port)] * 4


async def test_an_address_is_not_asked_for(everywhere: Fleet) -> None:
    target = Target("127.0.0.9", everywhere["a"].address[1], None, None, "x")
    names = Names([])
    assert await dialled(dialler(target, names), 2) == ["127.0.0.9"] * 2
    assert names.asked == []


async def test_connections_are_spread_over_the_addresses_of_a_name(everywhere: Fleet) -> None:
    names = Names(["127.0.0.1", "127.0.0.2", "127.0.0.3"])
    peers = await dialled(dialler(named(everywhere["a"].address[1]), names), 30)
    assert {peer: peers.count(peer) for peer in peers} == {"127.0.0.1": 10, "127.0.0.2": 10, "127.0.0.3": 10}


async def test_an_address_that_refuses_costs_nothing_but_the_next(fleet: Fleet) -> None:
    """The fleet listens on 127.0.0.1 alone."""
    names = Names(["127.0.0.2", "127.0.0.1", "127.0.0.3"])
    assert await dialled(dialler(named(fleet["a"].address[1]), names), 9) == ["127.0.0.1"] * 9


async def test_an_address_that_says_nothing_gets_its_part_of_the_time() -> None:
    deaf = Deaf()
    port = int(deaf.url.rpartition(":")[2])
    hearing = socket.create_server(("127.0.0.2", port))
    try:
        one = dialler(named(port), Names(["127.0.0.1", "127.0.0.2"]))
        started = asyncio.get_running_loop().time()
        assert await dialled(one, 2, patience=0.4) == ["127.0.0.2"] * 2
        assert asyncio.get_running_loop().time() - started < 0.4, "half the time for the deaf one, once"
        hearing.close()
        started = asyncio.get_running_loop().time()
        with pytest.raises(OSError):  # a time-out or a refusal, whichever came last
            await dialled(one, 1, patience=0.4)
        assert asyncio.get_running_loop().time() - started < 0.8
    finally:
        hearing.close()
        deaf.close()


async def test_when_all_refuse_it_is_refused(fleet: Fleet) -> None:
    names = Names(["127.0.0.2", "127.0.0.3"])
    with pytest.raises(ConnectionRefusedError):
        await dialled(dialler(named(fleet["a"].address[1]), names))


async def test_those_who_ask_at_once_share_a_question(everywhere: Fleet) -> None:
    names = Names(["127.0.0.1"], pause=0.05)
    one = dialler(named(everywhere["a"].address[1]), names)
    await asyncio.gather(*(dialled(one) for _ in range(20)))
    assert len(names.asked) == 1
    await dialled(one)
    assert len(names.asked) == 2


async def test_who_stops_waiting_for_a_name_takes_the_answer_from_nobody(everywhere: Fleet) -> None:
    names = Names(["127.0.0.1"], pause=0.2)
    one = dialler(named(everywhere["a"].address[1]), names)
    impatient = asyncio.ensure_future(dialled(one, patience=0.05))
    patient = asyncio.ensure_future(dialled(one))
    with pytest.raises(TimeoutError):
        await impatient
    assert await patient == ["127.0.0.1"]
    assert len(names.asked) == 1


async def test_a_name_service_that_fails_is_asked_again(everywhere: Fleet) -> None:
    names = Names([], ["127.0.0.1"])
    one = dialler(named(everywhere["a"].address[1]), names)
    with pytest.raises(socket.gaierror):
        await dialled(one)
    assert await dialled(one) == ["127.0.0.1"]


async def test_a_name_service_that_hangs_is_a_time_out() -> None:
    one = dialler(named(80), Names(["127.0.0.1"], pause=60.0))
    with pytest.raises(TimeoutError):
        await dialled(one, patience=0.1)


# ---- through an engine


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST", "127.0.0.1"])
async def test_targets_may_have_names(fleet: Fleet, host: str) -> None:
    async with running(settings(f"http://{host}:{fleet['a'].address[1]}")) as rig:
        assert (await rig.ask()).content == b"a"


@pytest.mark.parametrize("host", ["nowhere.invalid", "a" * 64 + ".invalid", "x..invalid"])
async def test_a_name_that_nobody_has_is_unreachable(host: str) -> None:
    async with running(settings(f"http://{host}:80")) as rig:
        assert (await rig.ask()).code in ("upstream_unreachable", "upstream_timeout")


async def test_a_target_may_have_an_address_of_version_6(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    for tls in (None, authority.context("::1")):
        fleet = Fleet("a", host="::1", tls=tls)
        try:
            upstream = settings(fleet["a"].url, tls=TlsSettings(ca=str(authority.file)))
            target = target_of(upstream.targets[0], upstream, None)
            assert target.host_line == b"Host: [::1]:%d\r\n" % fleet["a"].address[1]
            async with running(upstream) as rig:
                outcome = await rig.ask()
                assert outcome.content == b"a", outcome.refusal and outcome.refusal.reason
        finally:
            fleet.stop()
