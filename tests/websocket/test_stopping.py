"""WebSockets when the gateway stops, or its configuration changes."""

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from tests.support.configurations import changed
from tests.support.gateways import Gateways, unhandled
from tests.support.processes import Face, Gateway
from tests.support.recording import Exchange, RecordingUpstream
from tests.support.waiting import SharedEvent, eventually, listens, within
from tests.support.websockets import BINARY, FarEnd, Frame, Socket, close, echoing, encode, flooding, handshake, text

# ---- shutdown


@pytest.fixture
def own(gateways: Gateways, face: Face, tmp_path: Path) -> Iterator[Callable[[], Gateway]]:
    started: list[Gateway] = []

    def start() -> Gateway:
        started.append(Gateway(face, changed(gateways.configuration(tmp_path), server={"drain": "5s"}), tmp_path))
        return started[-1].start()

    yield start
    for gateway in started:
        gateway.kill()


PUBLIC = "/public-sockets/goodbye"


def test_a_gateway_that_stops_sends_close_frames_to_all_and_ends_cleanly(
    own: Callable[[], Gateway], upstream: RecordingUpstream
) -> None:
    """1001, going away; uvicorn sends 1012, service restart."""
    gateway = own()
    upstream.on(PUBLIC, echoing())
    sockets = [Socket(gateway, PUBLIC) for _ in range(100)]
    code = 1001 if gateway.face == "serve" else 1012
    started = time.monotonic()
    gateway.signal()
    for socket in sockets:
        assert socket.closed(within=2.0)[0] == code
        socket.say(close(code))
    for socket in sockets:
        assert socket.ended()[1] == b""
        socket.close()
    ended = gateway.wait()
    assert ended in ((0,) if gateway.face == "serve" else (0, -signal.SIGTERM))
    assert time.monotonic() - started < 4.0
    eventually(lambda: all(received.link.ended for received in upstream.requests))
    assert not unhandled(gateway)


def test_the_upstream_receives_a_close_frame_as_well(own: Callable[[], Gateway], upstream: RecordingUpstream) -> None:
    gateway = own()
    far = FarEnd()
    upstream.on(PUBLIC, far)
    with Socket(gateway, PUBLIC):
        gateway.signal()
        assert far.frame().closing[0] == (1001 if gateway.face == "serve" else 1012)


def test_a_handshake_in_progress_finishes_and_is_then_closed(
    own: Callable[[], Gateway], upstream: RecordingUpstream
) -> None:
    """Otherwise it would begin after the Closes were sent, and last as long as the drain."""
    gateway = own()
    released = SharedEvent()

    async def slowly(exchange: Exchange) -> None:
        await released.wait()
        await echoing()(exchange)

    upstream.on(PUBLIC, slowly)
    with gateway.caller() as caller:
        caller.send(handshake(PUBLIC))
        upstream.arrived()
        gateway.signal()
        eventually(lambda: not listens(gateway.address))
        released.set()
        if gateway.face == "serve":
            assert caller.receive().status == 101
            assert caller.ended()[1].startswith(b"\x88\x19\x03\xe9the gateway")
            with within(2.0):
                assert gateway.wait() == 0
        else:  # uvicorn answers 500 itself
            caller.ended()
            gateway.wait()


def test_no_peer_keeps_it_from_ending(own: Callable[[], Gateway], upstream: RecordingUpstream) -> None:
    """Ends that do not answer, ends within a frame, and one that never reads."""
    gateway = own()
    upstream.on(PUBLIC, FarEnd())
    upstream.on(PUBLIC + "/flood", flooding)
    silent, amid = Socket(gateway, PUBLIC), Socket(gateway, PUBLIC)
    amid.send(encode(Frame(BINARY, b"x" * 1000), masked=True)[:600])
    standing = Socket(gateway, PUBLIC + "/flood", receive_buffer=512 * 1024)
    time.sleep(0.3)
    gateway.signal()
    if gateway.face == "serve":
        with within(4.0):
            assert gateway.wait() == 0
    else:  # uvicorn waits without limit for unread bytes
        time.sleep(0.5)
        standing.close()
        gateway.wait()
    for socket in (silent, amid, standing):
        socket.close()


# ---- reloads

PATH = "/sockets/reload"


def test_websockets_whose_route_stays_outlive_a_reload_and_end_at_logout(
    gateways: Gateways, upstream: RecordingUpstream, tmp_path: Path
) -> None:
    configuration = gateways.configuration(tmp_path)
    gateway = Gateway("serve", configuration, tmp_path).start()
    try:
        upstream.on(PATH, echoing())
        account = gateway.newcomer()
        with Socket(gateway, PATH, account.line) as socket:
            socket.say(text("before")).frame()
            configuration["routes"].append({"path": "/added", "auth": "none", "upstream": "web"})
            gateway.config.write_text(yaml.safe_dump(configuration))
            gateway.signal(signal.SIGHUP)
            eventually(lambda: gateway.get("/added").status == 200)
            assert socket.say(text("after")).frame().payload == b"after"
            assert gateway.post("/auth/logout", b"", account.line).status == 204
            assert socket.closed(within=1.0) == (1008, "token_revoked")
    finally:
        gateway.kill()
