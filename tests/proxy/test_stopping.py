"""SIGTERM: no new requests, running ones finish within the drain, and the exit code reports the result."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.configurations import changed
from tests.support.faces import stock
from tests.support.gateways import Gateways, unhandled
from tests.support.processes import Engine, Face, Gateway
from tests.support.raw import NoAnswer
from tests.support.recording import RecordingUpstream
from tests.support.scripts import HeldConnection, response, silent
from tests.support.waiting import eventually, promised, within
from tests.support.wording import request


@pytest.fixture
def brief(gateways: Gateways, tmp_path: Path, engine: Engine) -> Iterator[Callable[[Face], Gateway]]:
    """Starts a separate gateway that drains for at most a second."""
    started: list[Gateway] = []

    def start(face: Face, drain: str = "1s") -> Gateway:
        configuration = changed(gateways.configuration(tmp_path, engine), server={"drain": drain})
        started.append(Gateway(face, configuration, tmp_path, engine))
        return started[-1].start()

    yield start
    for gateway in started:
        gateway.kill()


def stopped_accepting(gateway: Gateway) -> bool:
    try:
        with gateway.caller(timeout=1) as caller:
            caller.send(request("/_gateway/ready"))
            return caller.receive().status != 200
    except (OSError, NoAnswer):
        return True


def well_ended(gateway: Gateway, code: int) -> bool:
    return code in (0, -signal.SIGTERM) if stock(gateway.face, "exit code") else code == 0


def test_an_idle_gateway_ends_at_once(
    brief: Callable[[Face], Gateway], face: Face, upstream: RecordingUpstream
) -> None:
    """Idle keep-alive connections on either side delay nothing."""
    gateway = brief(face)
    with gateway.caller() as caller:
        assert caller.send(request("/public/x")).receive().status == 200
        with within(promised(1.5)):
            assert well_ended(gateway, gateway.stop())
        assert caller.ended() == ("fin", b"")
    assert not unhandled(gateway)


def test_running_evaluations_finish_before_shutdown(
    brief: Callable[[Face], Gateway], face: Face, upstream: RecordingUpstream
) -> None:
    """A response not begun, a response half sent, and an upload half received."""
    gateway = brief(face)
    head = response(200, ["Content-Length: 8"], None)
    awaited, begun = HeldConnection(after=head + b"in whole"), HeldConnection(before=head + b"in ", after=b"whole")
    upstream.on("/public/awaited", awaited)
    upstream.on("/public/begun", begun)
    with gateway.caller() as first, gateway.caller() as second, gateway.caller() as third:
        first.send(request("/public/awaited"))
        second.send(request("/public/begun"))
        third.send(request("/public/upload", method="POST", fields=["Content-Length: 10"]) + b"hello")
        upstream.arrived(3)
        half = second.receive_head()
        gateway.signal()
        eventually(lambda: stopped_accepting(gateway))
        awaited.release()
        begun.release()
        third.send(b"world")
        got = first.receive()
        assert (got.status, got.body, got.whole) == (200, b"in whole", True)
        if face == "serve":
            assert got.values("connection") == [b"close"]
        assert first.ended()[0] == "fin"
        pieces: list[bytes] = []
        assert second.receive_body(half, pieces.append)[1]
        assert b"".join(pieces) == b"in whole"
        assert third.receive("POST").body == b"upstream"
    assert well_ended(gateway, gateway.wait())
    uploaded = next(received for received in upstream.requests if received.target == b"/public/upload")
    assert bytes(uploaded.body) == b"helloworld"
    assert not unhandled(gateway)


def test_a_request_that_never_ends_is_cut_off_after_the_drain(
    brief: Callable[[Face], Gateway], upstream: RecordingUpstream
) -> None:
    """Only for `gateway serve`: uvicorn waits without a limit unless its own command line sets one."""
    gateway = brief("serve")
    upstream.on("/public/x", silent())
    with gateway.caller(timeout=8) as caller:
        caller.send(request("/public/x"))
        upstream.arrived()
        with within(3.5):
            gateway.signal()
            assert gateway.wait() == 1
        caller.ended()
    assert not unhandled(gateway)


def test_a_second_signal_ends_the_patience(brief: Callable[..., Gateway], upstream: RecordingUpstream) -> None:
    """Even during the drain."""
    gateway = brief("serve", drain="30s")
    upstream.on("/public/x", silent())
    with gateway.caller() as caller:
        caller.send(request("/public/x"))
        upstream.arrived()
        gateway.signal()
        eventually(lambda: stopped_accepting(gateway))
        with within(3.0):
            gateway.signal(signal.SIGINT)
            assert gateway.wait() == 1
