"""Host names of targets: one query per connection, and a race among the addresses."""

import asyncio
import contextlib
import functools
import gc
import socket
import ssl
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import uvloop

from gateway.proxy.target import Target, target_of
from gateway.proxy.target_connector import Lookup, TargetConnector
from gateway.settings.model import TlsSettings
from tests.proxy.upstreams.harness import running, sending_first, settings
from tests.support.fleet import OK, Fleet, Served
from tests.support.listening import listening
from tests.support.processes import Gateway
from tests.support.small import small
from tests.support.upstreams import Authority, FullBacklog, Refusing
from tests.support.waiting import promised
from tests.support.wording import request


@pytest.fixture
def everywhere() -> Iterator[Fleet]:
    """A target that listens on every address of 127.0.0.0/8, so that each address can represent another machine."""
    fleet = Fleet("a", host="0.0.0.0")
    yield fleet
    fleet.stop()


class Names:
    """A resolver: `answers` are the results of the next queries; each query takes `pause` seconds."""

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


def connector(target: Target, lookup: Lookup | None, **options: float) -> TargetConnector:
    return TargetConnector(target, asyncio.get_running_loop(), lookup, **options)


def named(port: int, tls: ssl.SSLContext | None = None) -> Target:
    name = "orders.internal"
    return Target(name, port, tls, name if tls else None, f"{name}:{port}")


class Reached(asyncio.Protocol):
    """A connection; `peers` are the connected addresses."""

    peers: list[str]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.peers.append(transport.get_extra_info("peername")[0])
        transport.close()


async def dialled(one: TargetConnector, times: int = 1, within: float = 2.0) -> list[str]:
    """The connected addresses of this many dials, one after another."""

    class Here(Reached):
        peers: list[str] = []  # of this call

    for _ in range(times):
        await one.connect(Here, within)
    return Here.peers


async def test_a_name_is_resolved_again_each_time(everywhere: Fleet) -> None:
    names = Names(["127.0.0.1"], ["127.0.0.2"], ["127.0.0.3"])
    port = everywhere["a"].address[1]
    assert await dialled(connector(named(port), names), 4) == ["127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.3"]
    assert names.asked == [("orders.internal", port)] * 4


async def test_an_address_is_not_asked_for(everywhere: Fleet) -> None:
    target = Target("127.0.0.9", everywhere["a"].address[1], None, None, "x")
    names = Names([])
    assert await dialled(connector(target, names), 2) == ["127.0.0.9"] * 2
    assert names.asked == []


async def test_connections_are_spread_over_the_addresses_of_a_name(everywhere: Fleet) -> None:
    names = Names(["127.0.0.1", "127.0.0.2", "127.0.0.3"])
    peers = await dialled(connector(named(everywhere["a"].address[1]), names), 30)
    assert {peer: peers.count(peer) for peer in peers} == {"127.0.0.1": 10, "127.0.0.2": 10, "127.0.0.3": 10}


async def test_an_address_that_refuses_costs_nothing_but_the_next(fleet: Fleet) -> None:
    """The fleet listens only on 127.0.0.1."""
    names = Names(["127.0.0.2", "127.0.0.1", "127.0.0.3"])
    assert await dialled(connector(named(fleet["a"].address[1]), names), 9) == ["127.0.0.1"] * 9


async def test_a_connection_is_given_to_its_protocol_with_the_bytes_that_came_first() -> None:
    """A server can send first, and does so here before the race is over."""
    greeting = b"SSH-2.0-OpenSSH_9.2p1\r\n"

    class Hearing(asyncio.Protocol):
        def __init__(self) -> None:
            self.transport: asyncio.BaseTransport | None = None
            self.heard: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = transport

        def data_received(self, data: bytes) -> None:
            assert self.transport is not None
            self.transport.close()
            self.heard.set_result(data)

    hearing = Hearing()
    async with listening(sending_first(greeting)) as port:
        one = connector(named(port), Names(["127.0.0.1", "127.0.0.2"]))
        await one.connect(lambda: hearing, 2.0)
        async with asyncio.timeout(2):
            assert await hearing.heard == greeting


# ---- unresponsive addresses


class UnansweredAddresses:
    """Addresses that neither accept nor refuse connections at a port."""

    def __init__(self, *addresses: str, port: int = 0) -> None:
        self._full_backlogs: list[FullBacklog] = []
        for address in addresses:
            self._full_backlogs.append(FullBacklog(address, port))
            port = self._full_backlogs[-1].port
        self.port = port

    def close(self) -> None:
        for full_backlog in self._full_backlogs:
            full_backlog.close()


async def timed(one: TargetConnector, within: float = 3.0) -> tuple[str, float]:
    """The address of a dial, and its duration in seconds."""
    started = asyncio.get_running_loop().time()
    (peer,) = await dialled(one, within=within)
    return peer, asyncio.get_running_loop().time() - started


async def quickest(connector_of: Callable[[], TargetConnector], *, below: float) -> tuple[str, float]:
    """The first dial that takes less than `below` seconds, of three: other tests can delay one of them."""
    for _ in range(3):
        peer, seconds = await timed(connector_of())
        if seconds < below:
            return peer, seconds
    raise AssertionError(f"took {seconds:.3f} s instead of less than {below} s")


@pytest.fixture
def dead_and_well() -> Iterator[tuple[int, UnansweredAddresses]]:
    """A port at which 127.0.0.1 and 127.0.0.2 are unresponsive and 127.0.0.3 accepts."""
    dead = UnansweredAddresses("127.0.0.1", "127.0.0.2")
    well = socket.create_server(("127.0.0.3", dead.port), backlog=512)
    yield dead.port, dead
    well.close()
    dead.close()


@pytest.mark.parametrize("addresses", [["127.0.0.3", "127.0.0.1"], ["127.0.0.3", "127.0.0.1", "127.0.0.2"]])
async def test_a_dead_address_costs_a_quarter_of_a_second_and_once(
    dead_and_well: tuple[int, UnansweredAddresses], addresses: list[str]
) -> None:
    one = connector(named(dead_and_well[0]), Names(addresses))
    took = []
    for _ in range(20):
        peer, seconds = await timed(one)
        assert peer == "127.0.0.3"
        took.append(seconds)
    dead = len(addresses) - 1
    assert 0.25 * dead <= max(took) < 0.25 * dead + 0.2
    assert sorted(took)[-2] < 0.2


async def test_simultaneous_dials_pass_a_dead_address_together(dead_and_well: tuple[int, UnansweredAddresses]) -> None:
    one = connector(named(dead_and_well[0]), Names(["127.0.0.1", "127.0.0.3"]))
    results = await asyncio.gather(*(timed(one) for _ in range(50)))
    assert {peer for peer, _ in results} == {"127.0.0.3"}
    assert max(seconds for _, seconds in results) < 1.0


async def test_an_address_that_was_dead_is_used_again_after_a_while(
    dead_and_well: tuple[int, UnansweredAddresses],
) -> None:
    port, dead = dead_and_well
    one = connector(named(port), Names(["127.0.0.1", "127.0.0.3"]), avoid=1.0)
    assert set(await dialled(one, 4)) == {"127.0.0.3"}
    dead.close()
    back = socket.create_server(("127.0.0.1", port), backlog=512)
    assert set(await dialled(one, 4)) == {"127.0.0.3"}, "not so soon"
    await asyncio.sleep(1.1)
    assert set(await dialled(one, 4)) == {"127.0.0.1", "127.0.0.3"}
    back.close()


async def test_an_address_that_was_dead_is_used_when_the_others_are(
    dead_and_well: tuple[int, UnansweredAddresses],
) -> None:
    port, dead = dead_and_well
    names = Names(["127.0.0.1", "127.0.0.3"])
    one = connector(named(port), names)
    assert set(await dialled(one, 2)) == {"127.0.0.3"}
    dead.close()
    back = socket.create_server(("127.0.0.1", port), backlog=512)
    names.answers = [["127.0.0.1", "127.0.0.2"]]
    peer, _ = await timed(one)
    assert peer == "127.0.0.1"
    names.answers = [["127.0.0.1", "127.0.0.3"]]
    assert set(await dialled(one, 4)) == {"127.0.0.1", "127.0.0.3"}, "it has shown that it is well"
    back.close()


async def test_the_families_of_addresses_alternate() -> None:
    """Often all IPv6 addresses are unreachable: they must not be tried one after another."""
    dead = UnansweredAddresses("::1", "::ffff:127.0.0.8")
    well = socket.create_server(("127.0.0.3", dead.port), backlog=512)
    try:
        for answer in (["127.0.0.3", "::1", "::ffff:127.0.0.8"], ["::ffff:127.0.0.8", "::1", "127.0.0.3"]):
            makes = functools.partial(connector, named(dead.port), Names(answer))
            peer, seconds = await quickest(makes, below=0.45)
            assert peer == "127.0.0.3"
            assert seconds >= 0.25, "a quarter of a second for one of them"
    finally:
        well.close()
        dead.close()


async def test_where_all_addresses_are_dead_it_is_a_time_out(dead_and_well: tuple[int, UnansweredAddresses]) -> None:
    one = connector(named(dead_and_well[0]), Names(["127.0.0.1", "127.0.0.2"]))
    started = asyncio.get_running_loop().time()
    with pytest.raises(TimeoutError):
        await dialled(one, within=0.4)
    assert asyncio.get_running_loop().time() - started < promised(0.6)


async def test_every_address_is_tried_in_the_time_that_there_is(dead_and_well: tuple[int, UnansweredAddresses]) -> None:
    one = connector(named(dead_and_well[0]), Names(["127.0.0.3", "127.0.0.1", "127.0.0.2"]))
    peer, _ = await timed(one, within=0.3)
    assert peer == "127.0.0.3"


async def test_a_slow_address_that_accepts_first_wins_and_the_other_is_closed(tmp_path: Path) -> None:
    """The slower one is in progress when the race ends, because of its handshake."""
    authority = Authority(tmp_path)
    trusting = ssl.create_default_context(cafile=str(authority.file))
    # Connections to clients have ports at 127.0.0.1 too, so that address is first to choose one that is free.
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        async with listening(sending_first(), "127.0.0.2", port, tls=authority.context("orders.internal")):
            one = connector(named(port, trusting), Names(["127.0.0.2", "127.0.0.1"]))
            peer, seconds = await timed(one)
            assert (peer, 0.25 <= seconds < promised(0.6)) == ("127.0.0.2", True)
            connection, _ = await asyncio.to_thread(silent.accept)
            connection.settimeout(2)
            with connection, contextlib.suppress(ConnectionResetError):
                while connection.recv(4096):  # its half of an unanswered handshake, and then the end
                    pass
            peer, _ = await quickest(lambda: one, below=0.2)
            assert peer == "127.0.0.2"


async def test_an_address_with_a_wrong_certificate_costs_nothing_but_the_next(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    trusting = ssl.create_default_context(cafile=str(authority.file))
    async with contextlib.AsyncExitStack() as stack:
        async with listening(sending_first(), tls=authority.context("orders.internal")) as port:
            wrong = listening(sending_first(), "127.0.0.2", port, tls=authority.context("billing.internal"))
            await stack.enter_async_context(wrong)
            one = connector(named(port, trusting), Names(["127.0.0.1", "127.0.0.2"]))
            assert await dialled(one, 6) == ["127.0.0.1"] * 6
        with pytest.raises((ssl.SSLError, ConnectionRefusedError)):
            await dialled(one)


async def test_a_name_with_ever_other_dead_addresses_takes_no_memory() -> None:
    count = 0

    async def ever_other(host: str, port: int) -> list[str]:
        nonlocal count
        count += 40
        return [f"127.1.{number // 250}.{number % 250 + 1}" for number in range(count, count + 40)]

    refusing = Refusing()
    try:
        one = connector(named(int(refusing.url.rpartition(":")[2])), ever_other)
        with pytest.raises(ConnectionRefusedError):
            await dialled(one)
        tracemalloc.start()
        try:
            for _ in range(20):
                with pytest.raises(ConnectionRefusedError):
                    await dialled(one)
            gc.collect()
            grown, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    finally:
        refusing.close()
    assert grown < 64 * 1024


async def test_when_all_refuse_it_is_refused(fleet: Fleet) -> None:
    names = Names(["127.0.0.2", "127.0.0.3"])
    with pytest.raises(ConnectionRefusedError):
        await dialled(connector(named(fleet["a"].address[1]), names))


async def test_concurrent_resolutions_share_a_query(everywhere: Fleet) -> None:
    names = Names(["127.0.0.1"], pause=0.05)
    one = connector(named(everywhere["a"].address[1]), names)
    await asyncio.gather(*(dialled(one) for _ in range(20)))
    assert len(names.asked) == 1
    await dialled(one)
    assert len(names.asked) == 2


async def test_a_cancelled_resolution_takes_the_result_from_no_other(everywhere: Fleet) -> None:
    names = Names(["127.0.0.1"], pause=0.2)
    one = connector(named(everywhere["a"].address[1]), names)
    impatient = asyncio.ensure_future(dialled(one, within=0.05))
    patient = asyncio.ensure_future(dialled(one))
    with pytest.raises(TimeoutError):
        await impatient
    assert await patient == ["127.0.0.1"]
    assert len(names.asked) == 1


async def test_a_name_service_that_fails_is_asked_again(everywhere: Fleet) -> None:
    names = Names([], ["127.0.0.1"])
    one = connector(named(everywhere["a"].address[1]), names)
    with pytest.raises(socket.gaierror):
        await dialled(one)
    assert await dialled(one) == ["127.0.0.1"]


async def test_a_name_service_that_hangs_is_a_time_out() -> None:
    one = connector(named(80), Names(["127.0.0.1"], pause=60.0))
    with pytest.raises(TimeoutError):
        await dialled(one, within=0.1)


# ---- through an engine


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST", "127.0.0.1"])
async def test_targets_may_have_names(fleet: Fleet, host: str) -> None:
    async with running(settings(f"http://{host}:{fleet['a'].address[1]}")) as harness:
        assert (await harness.ask()).content == b"a"


@pytest.mark.parametrize("host", ["nowhere.invalid", "a" * 64 + ".invalid", "x..invalid"])
async def test_an_unresolvable_name_is_unreachable(host: str) -> None:
    async with running(settings(f"http://{host}:80")) as harness:
        assert (await harness.ask()).code in ("upstream_unreachable", "upstream_timeout")


async def test_a_target_may_have_an_address_of_version_6(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    for tls in (None, authority.context("::1")):
        fleet = Fleet("a", host="::1", tls=tls)
        try:
            upstream = settings(fleet["a"].url, tls=TlsSettings(ca=str(authority.file)))
            target = target_of(upstream.targets[0], upstream, None)
            assert target.host_line == b"Host: [::1]:%d\r\n" % fleet["a"].address[1]
            async with running(upstream) as harness:
                outcome = await harness.ask()
                assert outcome.content == b"a", outcome.refusal and outcome.refusal.reason
        finally:
            fleet.stop()


# ---- through a gateway


class Hosts:
    """Runs a gateway with its own hosts file (needs mount namespaces)."""

    def __init__(self, folder: Path, text: str) -> None:
        file = folder / "hosts"
        file.write_text(text)
        mount = f'mount --bind {file} /etc/hosts && exec "$@"'
        self.prefix = ("unshare", "--map-root-user", "--mount", "sh", "-c", mount, "sh")

    @property
    def works(self) -> bool:
        with contextlib.suppress(OSError):
            return subprocess.run([*self.prefix, "true"], capture_output=True, check=False).returncode == 0
        return False


def test_a_dead_address_of_an_upstream_costs_a_quarter_of_a_second_and_once(
    tmp_path: Path, dead_and_well: tuple[int, UnansweredAddresses]
) -> None:
    """Each response closes its connection. Both engines dial with this connector."""
    port, _ = dead_and_well
    hosts = Hosts(tmp_path, "127.0.0.1 localhost\n127.0.0.1 orders.test\n127.0.0.4 orders.test\n")
    if not hosts.works:
        pytest.skip("this machine has no mount namespaces")
    closing = Fleet("a", host="127.0.0.4", port=port)

    def answer_and_close(served: Served) -> None:
        served.send(OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        served.close()

    closing.behave(answer_and_close)
    configuration = small(tmp_path, {"orders": {"targets": [f"http://orders.test:{port}"]}})
    gateway = Gateway("serve", configuration, tmp_path)
    gateway.prefix = hosts.prefix
    gateway.start()
    try:
        took = []
        for _ in range(12):
            started = time.monotonic()
            assert gateway.ask(request("/orders/x", method="POST", body=b"x")).status == 200
            took.append(time.monotonic() - started)
    finally:
        gateway.stop()
        closing.stop()
    assert 0.25 <= max(took) < 0.6
    assert sorted(took)[-3] < 0.2, "one for the dead address, and one while the gateway warms up"


def test_dials_of_a_unix_socket_with_a_full_queue_leave_no_exception_to_the_event_loop(tmp_path: Path) -> None:
    path = str(tmp_path / "orders.sock")

    async def left() -> BaseException | None:
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen(0)
            one = connector(Target("orders", 0, None, None, "orders", path), None)
            dials = [loop.create_task(one.connect(asyncio.Protocol, 10.0)) for _ in range(3)]
            await asyncio.wait(dials, return_when=asyncio.FIRST_COMPLETED)
            assert [dial.done() for dial in dials] == [True, False, False], "the queue has room for one"
            listener.setblocking(False)
            for _ in dials:
                accepted, _ = await loop.sock_accept(listener)
                accepted.close()
            await asyncio.gather(*dials, return_exceptions=True)
        found: asyncio.Future[BaseException | None] = loop.create_future()
        loop.call_soon(lambda: found.set_result(sys.exc_info()[1]))
        return await found

    # The loop of asyncio takes a full queue for a connection in progress.
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(left()) is None
