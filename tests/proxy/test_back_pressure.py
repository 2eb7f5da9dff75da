"""Large bodies pass through in flat memory: a slow side slows down the other one."""

import threading
import time
import zlib
from functools import cache

import pytest

from tests.support.processes import Gateway
from tests.support.raw import Caller, MiB
from tests.support.recording import RecordingUpstream
from tests.support.scale import WHOLE
from tests.support.scripts import LongBody, UploadCounter
from tests.support.wording import request

BLOCK = bytes(range(256)) * 256
# The loopback sockets can hold up to 32 MiB each in the kernel, and the process a little more.
IN_BETWEEN = 88 * MiB
GROWTH = 32 * MiB


class Tally:
    """Counts and compares received bytes with the sent ones."""

    def __init__(self) -> None:
        self.size = 0
        self.sum = 0

    def __call__(self, piece: bytes) -> None:
        self.size += len(piece)
        self.sum = zlib.adler32(piece, self.sum)


def size_for(gateway: Gateway) -> int:
    """A gigabyte for the production setup in a whole run; the others take five times as long for it."""
    return (1024 if WHOLE and (gateway.face, gateway.engine) == ("serve", "native") else 100) * MiB


@cache
def expected(size: int) -> int:
    total = 0
    for _ in range(size // len(BLOCK)):
        total = zlib.adler32(BLOCK, total)
    return total


def standing_still(look, *, still: float = 0.25, timeout: float = 10.0) -> int:  # type: ignore[no-untyped-def]
    """Wait until a count above zero has been stable for a while; returns the count."""
    until = time.monotonic() + timeout
    seen, since = look(), time.monotonic()
    while time.monotonic() - since < still or not seen:
        assert time.monotonic() < until, "it never stood still"
        time.sleep(0.01)
        if (now := look()) != seen:
            seen, since = now, time.monotonic()
    return int(seen)


@pytest.mark.parametrize("chunks", [False, True], ids=["length", "chunked"])
def test_a_large_download_to_a_slow_reader_stays_flat(
    gateway: Gateway, upstream: RecordingUpstream, chunks: bool
) -> None:
    size = size_for(gateway)
    long_body = LongBody(size, BLOCK, chunked=chunks)
    upstream.on("/public/large", long_body)
    before = gateway.memory()
    with gateway.caller(timeout=30) as caller:
        head = caller.send(request("/public/large")).receive_head()
        sent = standing_still(lambda: long_body.sent)
        assert sent < IN_BETWEEN, "the upstream was read although the client read nothing"
        assert gateway.memory() - before < GROWTH
        tally = Tally()
        peak = _while_watching(gateway, lambda: caller.receive_body(head, tally))
        assert (tally.size, tally.sum) == (size, expected(size))
    assert peak - before < GROWTH


@pytest.mark.parametrize("chunks", [False, True], ids=["length", "chunked"])
def test_a_large_upload_to_a_slow_upstream_stays_flat(
    gateway: Gateway, upstream: RecordingUpstream, chunks: bool
) -> None:
    size, upload_counter = size_for(gateway), UploadCounter()
    upstream.on("/uploads/large", upload_counter)
    before = gateway.memory()
    with gateway.caller(timeout=30) as caller:
        sender = Sender(caller, size, chunks)
        sender.start()
        sent = standing_still(lambda: sender.sent)
        assert sent < IN_BETWEEN, "the client was read although the upstream read nothing"
        assert gateway.memory() - before < GROWTH
        upload_counter.open()
        peak = _while_watching(gateway, lambda: caller.receive("POST"))
        sender.join(30)
    assert upload_counter.taken == size
    assert upload_counter.sum == expected(size)
    assert peak - before < GROWTH


class Sender(threading.Thread):
    """Sends a body as fast as possible."""

    def __init__(self, caller: Caller, size: int, chunks: bool) -> None:
        super().__init__(daemon=True)
        self.caller = caller
        self.size = size
        self.chunks = chunks
        self.sent = 0

    def run(self) -> None:
        framing = "Transfer-Encoding: chunked" if self.chunks else f"Content-Length: {self.size}"
        self.caller.send(request("/uploads/large", method="POST", fields=[framing]))
        piece = b"%x\r\n%s\r\n" % (len(BLOCK), BLOCK) if self.chunks else BLOCK
        for _ in range(self.size // len(BLOCK)):
            self.caller.send(piece)
            self.sent += len(BLOCK)
        if self.chunks:
            self.caller.send(b"0\r\n\r\n")


def _while_watching(gateway: Gateway, work) -> int:  # type: ignore[no-untyped-def]
    """Do the work; returns the peak memory of the gateway during it."""
    done = threading.Event()
    peak = [gateway.memory()]

    def watch() -> None:
        while not done.wait(0.02):
            peak.append(gateway.memory())

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        work()
    finally:
        done.set()
        watching.join()
    return max(peak)


def test_a_slow_reader_is_not_an_idle_upstream(gateway: Gateway, upstream: RecordingUpstream) -> None:
    """While the gateway itself has stopped reading, the upstream's `idle_timeout` does not apply."""
    size = 24 * MiB
    upstream.on("/impatient/large", LongBody(size, BLOCK))
    with gateway.caller(timeout=30, receive_buffer=512 * 1024) as caller:
        head = caller.send(request("/impatient/large")).receive_head()
        time.sleep(1.2)
        tally = Tally()
        assert caller.receive_body(head, tally)[1]
    assert tally.size == size


def test_one_slow_reader_does_not_stop_the_others(gateway: Gateway, upstream: RecordingUpstream) -> None:
    long_body = LongBody(200 * MiB, BLOCK)
    upstream.on("/public/large", long_body)
    with gateway.caller() as slow:
        slow.send(request("/public/large"))
        standing_still(lambda: long_body.sent)
        for _ in range(50):
            assert gateway.get("/public/x").body == b"upstream"


def test_slow_readers_of_many_small_pieces_stay_flat(gateway: Gateway, upstream: RecordingUpstream) -> None:
    """A chunk of one byte costs far more memory than bytes on the wire, and is bounded too."""
    long_body = LongBody(4 * MiB, b"x", chunked=True, together=4096)  # 24 MiB on the wire for each client
    upstream.on("/public/pieces", long_body)
    before = gateway.memory()
    callers = [gateway.caller(receive_buffer=8 * 1024) for _ in range(4)]
    try:
        for caller in callers:
            caller.send(request("/public/pieces"))
        standing_still(lambda: long_body.sent)
        assert gateway.memory() - before < GROWTH
    finally:
        for caller in callers:
            caller.close()
