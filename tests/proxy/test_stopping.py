"""SIGTERM: no new work, what runs is finished within the drain, and the exit code says whether it was."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.configurations import changed
from tests.support.faces import stock
from tests.support.gateways import Town, unhandled
from tests.support.processes import Face, Gateway
from tests.support.raw import NoAnswer
from tests.support.recording import RecordingUpstream
from tests.support.scripts import Held, response, silent
from tests.support.waiting import eventually, within
from tests.support.wording import request


@pytest.fixture
def mortal(town: Town, face: Face, tmp_path: Path) -> Iterator[Gateway]:
    """A gateway of this test's own, that drains for at most a second."""
    configuration = changed(town.configuration(tmp_path), server={"drain": "1s"})
    gateway = Gateway(face, configuration, tmp_path).start()
    yield gateway
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


def test_an_idle_gateway_ends_at_once(mortal: Gateway, upstream: RecordingUpstream) -> None:
    """Connections that are kept alive, on either side, hold nothing up."""
    with mortal.caller() as caller:
        assert caller.send(request("/public/x")).receive().status == 200
        with within(1.5):
            assert well_ended(mortal, mortal.stop())
        assert caller.ended() == ("fin", b"")
    assert not unhandled(mortal)


def test_sigint_ends_it_too(mortal: Gateway) -> None:
    mortal.signal(signal.SIGINT)
    assert mortal.wait() in (0, -signal.SIGINT, 130)
    assert not unhandled(mortal)


def test_a_running_request_is_finished_before_the_end(mortal: Gateway, upstream: RecordingUpstream) -> None:
    head = response(200, ["Content-Length: 8"], None)
    for path, held in (
        ("/public/head", Held(after=head + b"in whole")),
        ("/public/body", Held(before=head + b"in ", after=b"whole")),
    ):
        upstream.on(path, held)
        upstream._scripts[path.encode()] = held
    with mortal.caller() as first, mortal.caller() as second:
        first.send(request("/public/head"))
        second.send(request("/public/body"))
        upstream.arrived(2)
        head_of_second = second.receive_head()
        mortal.signal()
        eventually(lambda: stopped_accepting(mortal))
        for held in upstream._scripts.values():
            held.release()  # type: ignore[attr-defined]
        got = first.receive()
        assert (got.status, got.body, got.whole) == (200, b"in whole", True)
        if mortal.face == "serve":
            assert got.values("connection") == [b"close"]
        assert first.ended()[0] == "fin"
        pieces: list[bytes] = []
        assert second.receive_body(head_of_second, pieces.append)[1]
        assert b"".join(pieces) == b"in whole"
    assert well_ended(mortal, mortal.wait())
    assert not unhandled(mortal)


def test_a_running_upload_is_finished_before_the_end(mortal: Gateway, upstream: RecordingUpstream) -> None:
    with mortal.caller() as caller:
        caller.send(request("/public/x", method="POST", fields=["Content-Length: 10"]) + b"hello")
        upstream.arrived()
        mortal.signal()
        eventually(lambda: stopped_accepting(mortal))
        caller.send(b"world")
        assert caller.receive("POST").body == b"upstream"
    assert bytes(upstream.only.body) == b"helloworld"
    assert well_ended(mortal, mortal.wait())


def test_a_request_that_never_ends_is_cut_off_after_the_drain(mortal: Gateway, upstream: RecordingUpstream) -> None:
    if stock(mortal.face, "exit code"):
        pytest.skip("uvicorn waits without a bound unless it is told one on its own command line")
    upstream.on("/public/x", silent())
    with mortal.caller(timeout=8) as caller:
        caller.send(request("/public/x"))
        upstream.arrived()
        with within(3.5):
            mortal.signal()
            assert mortal.wait() == 1
        caller.ended()
    assert not unhandled(mortal)


def test_a_second_signal_ends_the_patience(town: Town, upstream: RecordingUpstream, tmp_path: Path) -> None:
    """Drain or not: whoever asks twice means it."""
    configuration = changed(town.configuration(tmp_path), server={"drain": "30s"})
    gateway = Gateway("serve", configuration, tmp_path).start()
    try:
        upstream.on("/public/x", silent())
        with gateway.caller() as caller:
            caller.send(request("/public/x"))
            upstream.arrived()
            gateway.signal()
            eventually(lambda: stopped_accepting(gateway))
            with within(3.0):
                gateway.signal(signal.SIGINT)
                assert gateway.wait() == 1
    finally:
        gateway.kill()
