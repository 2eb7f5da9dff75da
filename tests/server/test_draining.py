"""SIGTERM under load: running requests finish, no new ones begin, and the exit code reports the result."""

import asyncio
import contextlib
import signal
import socket
import time
from pathlib import Path

import pytest

from gateway.ticker import PERIOD
from tests.support import launcher
from tests.support.fleet import OK, Fleet, Served
from tests.support.load import Load
from tests.support.processes import Gateway
from tests.support.raw import MiB, NoAnswer
from tests.support.small import Start
from tests.support.waiting import eventually, within
from tests.support.wording import request

GET = request("/web/x")


def refuses(gateway: Gateway) -> bool:
    """Whether new connections are refused, or dropped at first."""
    try:
        gateway.caller(timeout=0.2).close()
    except OSError:
        return True
    return False


# ---- under load


@pytest.mark.parametrize("keep", [True, False], ids=["kept connections", "a connection for each"])
async def test_a_drain_under_load_fails_no_request_that_was_begun(start: Start, fleet: Fleet, keep: bool) -> None:
    fleet.behave(lambda served: served.later(0.02, lambda: served.send(OK)))
    for _ in range(3):
        gateway = start({"web": {"targets": fleet.urls, "max_connections": 500}})
        async with Load(gateway.address, lambda _: GET, callers=24, keep=keep) as load:
            await load.more(200)
            gateway.signal()
            code = await asyncio.to_thread(gateway.wait)
        begun = load.lost_in_drain
        print(f"\n{len(load.answers)} answered, {len(begun)} of those begun lost, exit code {code}")
        assert code == 0
        assert begun == []
        assert load.statuses == {200: len(load.answers)}


async def test_large_answers_and_slow_uploads_are_finished(start: Start, fleet: Fleet) -> None:
    size = 30 * MiB
    fleet.behave(lambda served: served.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size))
    gateway = start({"web": fleet.urls})
    with gateway.caller(timeout=10) as loading, gateway.caller(timeout=10) as sending:
        head = loading.send(GET).receive_head()
        sending.send(request("/web/x", method="POST", fields=["Content-Length: 6"]) + b"hel")
        gateway.signal()
        await asyncio.to_thread(eventually, lambda: refuses(gateway))
        total = 0

        def slowly(piece: bytes) -> None:
            nonlocal total
            total += len(piece)
            time.sleep(0.001)

        assert loading.receive_body(head, slowly)[1]
        assert total == size
        for byte in b"lo!":
            time.sleep(0.1)
            sending.send(bytes([byte]))
        assert sending.receive("POST").whole
    assert gateway.wait() == 0


# ---- connections


def test_idle_connections_are_closed_in_a_moment(start: Start, fleet: Fleet) -> None:
    gateway = start({"web": fleet.urls})
    callers = [gateway.caller() for _ in range(20)]
    for caller in callers[10:]:
        assert caller.send(GET).receive().status == 200
    with within(3.0):
        gateway.signal()
        assert gateway.wait() == 0
    for caller in callers:
        assert caller.ended() == ("fin", b"")
        caller.close()


def test_a_request_that_was_on_its_way_is_answered_and_then_the_connection_ends(start: Start, fleet: Fleet) -> None:
    """It arrives on a connection that was idle when the drain began, within PERIOD."""
    assert any(_sent_in_a_drain(start({"web": fleet.urls})) for _ in range(10)), "this process is too slow"


def _sent_in_a_drain(gateway: Gateway) -> bool:
    """Whether this process is fast enough to send the request in time."""
    with gateway.caller() as caller:
        assert caller.send(GET).receive().status == 200
        signalled = time.monotonic()
        gateway.signal()
        eventually(lambda: refuses(gateway), every=0.001)
        time.sleep(max(0.0, signalled + 0.2 - time.monotonic()))
        caller.send(GET)
        if time.monotonic() - signalled > PERIOD:
            return False
        got = caller.receive()
        assert got.status == 200
        assert got.values("connection") == [b"close"]
        assert caller.ended() == ("fin", b"")
    assert gateway.wait() == 0
    return True


def test_a_head_that_was_begun_is_waited_for(start: Start, fleet: Fleet) -> None:
    gateway = start({"web": fleet.urls})
    with gateway.caller() as caller:
        caller.send(GET[:20])
        time.sleep(0.05)
        gateway.signal()
        eventually(lambda: refuses(gateway))
        time.sleep(0.6)
        got = caller.send(GET[20:]).receive()
        assert (got.status, got.values("connection")) == (200, [b"close"])
    assert gateway.wait() == 0


def test_readiness_goes_first(start: Start, fleet: Fleet) -> None:
    """A load balancer with a persistent probe connection learns to stop sending requests."""
    held: list[Served] = []
    fleet.behave(held.append)
    gateway = start({"web": fleet.urls})
    with gateway.caller() as running, gateway.caller() as probing:
        probe = request("/_gateway/ready")
        assert probing.send(probe).receive().status == 200
        probing.send(probe[:-2])  # the gateway closes an idle connection after a tick
        running.send(GET)
        eventually(lambda: held)
        gateway.signal()
        eventually(lambda: refuses(gateway), every=0.001)
        got = probing.send(probe[-2:]).receive()
        assert (got.status, got.json()["status"]) == (503, "draining")
        fleet.loop.call_soon_threadsafe(held[0].send, OK)
        assert running.receive().body == b"ok"
    assert gateway.wait() == 0


def test_pipelined_requests_behind_the_one_that_runs_are_not_begun(start: Start, fleet: Fleet) -> None:
    """Their client learns it from the response before them, which announces the close."""
    held: list[Served] = []
    fleet.behave(held.append)
    gateway = start({"web": fleet.urls})
    with gateway.caller() as caller:
        caller.send(GET * 3)
        eventually(lambda: held)
        gateway.signal()
        eventually(lambda: refuses(gateway))
        fleet.loop.call_soon_threadsafe(held[0].send, OK)
        got = caller.receive()
        assert (got.body, got.values("connection")) == (b"ok", [b"close"])
        assert caller.ended()[1] == b""
    assert gateway.wait() == 0
    assert fleet.requests == 1


# ---- the drain timeout


def test_a_stuck_client_is_cut_off_after_the_drain(start: Start, fleet: Fleet) -> None:
    fleet.behave(lambda served: None)
    gateway = start({"web": fleet.urls}, server={"drain": "1s"})
    with gateway.caller() as caller:
        caller.send(GET)
        eventually(lambda: fleet.requests == 1)
        started = time.monotonic()
        gateway.signal()
        assert gateway.wait() == 1
        assert 0.9 < time.monotonic() - started < 4.0
        with pytest.raises(NoAnswer):
            caller.receive()


def test_with_a_drain_of_zero_no_client_is_awaited(start: Start, fleet: Fleet) -> None:
    fleet.behave(lambda served: None)
    gateway = start({"web": fleet.urls}, server={"drain": "0s"})
    with gateway.caller() as caller, within(3.0):
        caller.send(GET)
        eventually(lambda: fleet.requests == 1)
        gateway.signal()
        assert gateway.wait() == 1


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_it_at_once(start: Start, fleet: Fleet, second: signal.Signals) -> None:
    fleet.behave(lambda served: None)
    gateway = start({"web": fleet.urls}, server={"drain": "60s"})
    with gateway.caller() as caller, within(4.0):
        caller.send(GET)
        eventually(lambda: fleet.requests == 1)
        gateway.signal()
        eventually(lambda: refuses(gateway))
        gateway.signal(second)
        assert gateway.wait() == 1


def test_a_client_that_reads_nothing_does_not_delay_the_end(start: Start, fleet: Fleet) -> None:
    size = 16 * MiB
    fleet.behave(lambda served: served.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size))
    gateway = start({"web": fleet.urls}, server={"drain": "1s"})
    with gateway.caller(receive_buffer=2048) as caller, within(5.0):
        caller.send(GET)
        eventually(lambda: fleet.requests == 1)
        time.sleep(0.2)
        gateway.signal()
        assert gateway.wait() == 1


# ---- startup


def test_a_port_in_use_is_reported_in_one_line(start: Start, fleet: Fleet) -> None:
    gateway = start({"web": fleet.urls})
    port = str(gateway.address[1])
    done = launcher.run(["-m", "gateway", "serve", "--config", str(gateway.config), "--port", port])
    assert done.returncode == 2
    assert f"cannot listen on 127.0.0.1 port {port}: Address already in use" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_an_address_is_free_again_at_once(start: Start, fleet: Fleet) -> None:
    """Although its connections are still in TIME_WAIT."""
    gateway = start({"web": fleet.urls})
    with gateway.caller() as caller:
        assert caller.send(GET).receive().status == 200
        gateway.stop()
    with socket.socket() as again, contextlib.suppress(OSError):
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind(gateway.address)
        return
    raise AssertionError("the address is still in use")


def test_as_many_files_are_allowed_as_the_system_has(start: Start, fleet: Fleet) -> None:
    """Shells set a soft limit of a thousand, and each connection takes one descriptor."""
    script = (
        "import resource, subprocess, sys\n"
        "_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))\n"
        "sys.argv[1:] = {arguments!r}\n"
        "from gateway.__main__ import main\n"
        "main()\n"
    )
    gateway = start({"web": fleet.urls})
    gateway.stop()
    arguments = gateway.arguments[2:]
    for hard, warned in (("hard", False), ("1000", True)):
        before = len(gateway.log())
        text = script.format(soft=200, hard=hard, arguments=arguments)
        gateway.__class__ = type("Limited", (Gateway,), {"arguments": ["-c", text]})
        gateway.launch()
        gateway.__class__ = Gateway
        gateway.address = (gateway.address[0], int(arguments[arguments.index("--port") + 1]))
        gateway.ready()
        assert gateway.process is not None
        limits = Path(f"/proc/{gateway.process.pid}/limits").read_text().partition("Max open files")[2].split()
        assert limits[0] == limits[1]
        assert ("raise `ulimit -n`" in gateway.log()[before:]) is warned
        gateway.stop()
