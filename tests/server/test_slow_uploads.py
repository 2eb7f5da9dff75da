"""Uploads that never pause for long but make no progress: `server.min_body_rate`.

The gateways here average over one second instead of fifteen.
"""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.builds import patches_a_compiled_constant
from tests.support.configurations import changed
from tests.support.gateways import Gateways
from tests.support.processes import Face, Gateway
from tests.support.raw import Answer, Caller, MiB
from tests.support.recording import RecordingUpstream
from tests.support.scripts import UploadCounter
from tests.support.waiting import eventually
from tests.support.wording import request

pytestmark = patches_a_compiled_constant

_PROGRAM = """
import sys
import gateway.proxy.slow_peers
gateway.proxy.slow_peers.WINDOW = 1.0
sys.argv = sys.argv[1:]
import runpy
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""
LEAST = 2000  # In bytes per second.
CHUNKED = "Transfer-Encoding: chunked"
Dripped = tuple[Answer, float]


class ShortWindow(Gateway):
    @property
    def arguments(self) -> list[str]:
        return ["-c", _PROGRAM, *super().arguments[1:]]


def short_window(face: Face, gateways: Gateways, folder: Path, **server: str | int) -> Gateway:
    (folder / "gateway.db").write_bytes(gateways.seed().read_bytes())
    configuration = changed(gateways.configuration(folder), server={"body_timeout": "500ms", **server})
    return ShortWindow(face, configuration, folder).start()


@pytest.fixture(scope="module")
def paced(face: Face, gateways: Gateways, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    # A busy machine can delay a client for half a second, which is then no pause of the body.
    folder = tmp_path_factory.mktemp("paced")
    gateway = short_window(face, gateways, folder, min_body_rate=LEAST, body_timeout="1500ms")
    yield gateway
    gateway.stop()


def drip(gateway: Gateway, head: bytes, piece: bytes, *, every: float, times: int, end: bytes = b"") -> Dripped:
    """The response to an upload in pieces, and the seconds until it arrived."""

    def send(caller: Caller) -> None:
        for _ in range(times):
            if not caller.send_until_refused([piece]):
                return  # the gateway has closed the connection
            time.sleep(every)
        caller.send_until_refused([end])

    began = time.monotonic()
    with gateway.caller(timeout=10) as caller:
        caller.send(head)
        sending = threading.Thread(target=send, args=(caller,))
        sending.start()
        answer = caller.receive("POST")
        seconds = time.monotonic() - began
        sending.join(10)
    return answer, seconds


def upload(path: str, framing: str) -> bytes:
    return request(path, method="POST", fields=[framing, "Content-Type: application/json"])


SLOW = {
    "a length": (upload("/public/x", "Content-Length: 100000"), b"x"),
    "chunks": (upload("/public/x", CHUNKED), b"1\r\nx\r\n"),
    "chunks with extensions": (upload("/public/x", CHUNKED), b"1;a=" + b"x" * 150 + b"\r\nx\r\n"),
    "an own endpoint": (upload("/auth/login", "Content-Length: 8000"), b" "),
    "chunks for an own endpoint": (upload("/auth/login", CHUNKED), b"1\r\n \r\n"),
    "without a limit on the body": (upload("/uploads/x", "Content-Length: 100000000"), b"x" * 100),
}


def test_uploads_below_the_rate_are_refused_and_others_are_not(paced: Gateway, upstream: RecordingUpstream) -> None:
    size = 30 * 2 * LEAST // 10
    fast = {  # at twice the rate, for three seconds
        "a length": (upload("/public/fast", f"Content-Length: {size}"), b"x" * 400, b""),
        "chunks": (
            upload("/public/fast", CHUNKED),
            b"190\r\n" + b"x" * 400 + b"\r\n",
            b"0\r\n\r\n",
        ),
    }
    with ThreadPoolExecutor(len(SLOW) + len(fast)) as pool:
        slow_ones = {
            name: pool.submit(drip, paced, head, piece, every=0.1, times=60) for name, (head, piece) in SLOW.items()
        }
        fast_ones = {
            name: pool.submit(drip, paced, head, piece, every=0.1, times=30, end=end)
            for name, (head, piece, end) in fast.items()
        }
    for name, slow in slow_ones.items():
        answer, seconds = slow.result()
        assert (answer.refused(), answer.value("connection")) == ((408, "request_timeout"), b"close"), name
        assert 2.4 < seconds < 5, name  # one and a half seconds of grace, one second of the window
    for name, fast_one in fast_ones.items():
        assert fast_one.result()[0].status == 200, name
    eventually(lambda: all(one.link.ended for one in upstream.requests if one.target != b"/public/fast"))
    assert [len(one.body) for one in upstream.requests if one.whole] == [size, size]


def test_the_time_in_which_the_upstream_does_not_read_does_not_count(
    paced: Gateway, upstream: RecordingUpstream
) -> None:
    slow = UploadCounter()
    upstream.on("/uploads/x", slow)
    with paced.caller(timeout=15) as caller:
        caller.send(upload("/uploads/x", f"Content-Length: {30 * MiB}"))
        pushing = threading.Thread(target=lambda: caller.send_until_refused([b"x" * MiB] * 30))
        pushing.start()
        pushing.join(3)
        assert pushing.is_alive()
        slow.open()
        assert caller.receive("POST").body == b"%d" % (30 * MiB)
        pushing.join(10)


def test_0_is_no_limit(face: Face, gateways: Gateways, tmp_path: Path, upstream: RecordingUpstream) -> None:
    gateway = short_window(face, gateways, tmp_path, min_body_rate=0)
    try:
        head = upload("/public/x", "Content-Length: 18")
        assert drip(gateway, head, b"x", every=0.1, times=18)[0].status == 200
    finally:
        gateway.stop()
