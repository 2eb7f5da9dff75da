"""Log lines are written to real pipes, sockets, files and terminals; slow readers block nothing."""

import fcntl
import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.observability.log_writer import LogWriter

SOON = 0.5  # In seconds: a longer call has blocked.


def lines(count: int, size: int = 100, first: int = 0) -> bytes:
    """Numbered lines of `size` bytes."""
    return b"".join(b"%08d" % number + b"x" * (size - 9) + b"\n" for number in range(first, first + count))


def read_all(descriptor: int) -> bytes:
    """Read to the end, until all writers have closed."""
    with os.fdopen(os.dup(descriptor), "rb") as reader:
        return reader.read()


def read(descriptor: int, size: int, pause: float = 0.0) -> bytes:
    """Read exactly this many bytes, in small pieces."""
    got = bytearray()
    while len(got) < size:
        got += os.read(descriptor, min(size - len(got), 65536))
        time.sleep(pause)
    return bytes(got)


class Pipe:
    """The two ends of a pipe, each closed once."""

    def __init__(self) -> None:
        self.reading, self.writing = os.pipe()
        self._open = {self.reading, self.writing}

    def reader_leaves(self) -> None:
        self._close(self.reading)

    def writer_leaves(self) -> None:
        self._close(self.writing)

    def _close(self, end: int) -> None:
        if end in self._open:
            self._open.remove(end)
            os.close(end)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    pipe.reader_leaves()
    pipe.writer_leaves()


def is_non_blocking(descriptor: int) -> bool:
    return bool(fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_NONBLOCK)


def test_writes_that_fit_into_the_pipe_need_no_thread(pipe: Pipe) -> None:
    threads = threading.active_count()
    writer = LogWriter(pipe.writing)
    writer.write(lines(100))
    assert threading.active_count() == threads
    assert os.read(pipe.reading, 100_000) == lines(100)
    assert not is_non_blocking(pipe.writing), "the flag belongs to all who share the pipe"
    writer.close()
    assert writer.dropped == 0


def test_a_slow_reader_gets_everything_in_order_and_delays_no_request(pipe: Pipe) -> None:
    writer = LogWriter(pipe.writing)
    started = time.monotonic()
    for block in range(100):
        writer.write(lines(128, first=block * 128))  # 1.3 MB in all, and the pipe holds 64 KiB
    assert time.monotonic() - started < SOON
    got = read(pipe.reading, 128 * 100 * 100, pause=0.0002)
    writer.close()
    assert got == lines(128 * 100)
    assert writer.dropped == 0


def test_after_the_reader_caught_up_lines_are_written_at_once_again(pipe: Pipe) -> None:
    writer = LogWriter(pipe.writing)
    writer.write(lines(2000))
    assert read(pipe.reading, 200_000) == lines(2000)
    os.set_blocking(pipe.reading, False)
    deadline = time.monotonic() + 5
    at_once = 0
    while at_once < 300:  # until the thread has noticed that it is done, the lines go through it in order
        writer.write(lines(1))
        try:
            at_once = at_once + 1 if os.read(pipe.reading, 65536) == lines(1) else 0
        except BlockingIOError:
            at_once = 0
        assert time.monotonic() < deadline
    writer.close()


def test_unread_lines_are_dropped_and_counted_beyond_the_limit(pipe: Pipe) -> None:
    writer = LogWriter(pipe.writing, limit=50_000)
    started = time.monotonic()
    for _ in range(100):
        writer.write(lines(100))  # a megabyte
    assert time.monotonic() - started < SOON
    assert 800 <= 10_000 - writer.dropped <= 65_536 // 100 + 50_000 // 100 + 200
    writer.close(timeout=0.05)


def test_one_block_larger_than_the_limit_is_not_dropped_for_its_size(pipe: Pipe) -> None:
    writer = LogWriter(pipe.writing, limit=1000)
    writer.write(lines(2000))
    got = read(pipe.reading, 200_000)
    writer.close()
    assert got == lines(2000)
    assert writer.dropped == 0


def test_closing_waits_for_a_slow_reader_for_a_limited_time(pipe: Pipe) -> None:
    writer = LogWriter(pipe.writing)
    writer.write(lines(2000))
    started = time.monotonic()
    writer.close(timeout=0.2)
    assert 0.2 <= time.monotonic() - started < 0.2 + SOON
    dropped = writer.dropped
    writer.write(lines(3))
    assert writer.dropped == dropped + 3


def test_dropped_lines_never_reach_the_next_owner_of_the_descriptor() -> None:
    first, second = Pipe(), Pipe()
    writer = LogWriter(first.writing)
    for block in range(50):  # the thread blocks with the first bytes that the pipe does not hold; the others follow it
        writer.write(lines(100, first=block * 100))
    writer.close(timeout=0.05)
    os.dup2(second.writing, first.writing)  # the descriptor refers to another pipe now
    first.reader_leaves()  # the thread's own write ends
    assert select.select([second.reading], [], [], 0.3)[0] == []
    for end in (first.writing, second.writing, second.reading):
        os.close(end)


def test_closing_writes_the_remaining_lines(pipe: Pipe) -> None:
    writer = LogWriter(pipe.writing)
    writer.write(lines(2000))
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(read_all(os.dup(pipe.reading))))
    reader.start()
    writer.close()
    pipe.writer_leaves()
    reader.join(10)
    assert got == [lines(2000)]


def test_a_reader_that_is_gone_costs_lines_and_nothing_else(pipe: Pipe) -> None:
    writer = LogWriter(pipe.writing)
    pipe.reader_leaves()
    writer.write(lines(3))
    writer.write(lines(4))
    writer.close()
    assert writer.dropped == 7


def test_a_reader_that_leaves_while_lines_wait_costs_the_waiting_ones(pipe: Pipe) -> None:
    writer = LogWriter(pipe.writing)
    writer.write(lines(2000))
    pipe.reader_leaves()
    writer.close()
    assert 2000 - 65_536 // 100 - 41 <= writer.dropped <= 2000 - 65_536 // 100 + 41


def test_a_pipe_that_had_no_reader_when_it_was_looked_at_is_written_all_the_same(tmp_path: Path) -> None:
    """Opening such a pipe again would block, so the thread writes."""
    path = tmp_path / "log"
    os.mkfifo(path)
    reading = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    writing = os.open(path, os.O_WRONLY)
    os.close(reading)
    writer = LogWriter(writing)
    reading = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    writer.write(lines(3))
    writer.close()
    os.close(writing)
    assert read_all(reading) == lines(3)
    os.close(reading)
    assert writer.dropped == 0


def test_a_pipe_made_non_blocking_by_another_process_loses_nothing(pipe: Pipe) -> None:
    os.set_blocking(pipe.writing, False)
    writer = LogWriter(pipe.writing)
    writer.write(lines(5000))
    got = read(pipe.reading, 500_000, pause=0.0005)
    writer.close()
    assert got == lines(5000)


def test_processes_that_share_a_pipe_never_mingle_their_lines(pipe: Pipe) -> None:
    program = (
        "import sys; from gateway.observability.log_writer import LogWriter\n"
        "writer = LogWriter(1)\n"
        "for n in range(150): writer.write((sys.argv[1] * 299 + '\\n').encode() * 128)\n"
        "writer.close(30); sys.exit(min(1, writer.dropped))"
    )
    workers = [subprocess.Popen([sys.executable, "-c", program, letter], stdout=pipe.writing) for letter in "abc"]
    pipe.writer_leaves()
    got = read_all(pipe.reading)
    assert [worker.wait(10) for worker in workers] == [0, 0, 0]
    expected = {letter * 299 for letter in "abc"}
    assert set(got.decode().splitlines()) == expected
    assert len(got) == 3 * 150 * 128 * 300


def test_a_line_longer_than_any_atomic_write_is_written_whole(pipe: Pipe) -> None:
    block = b"a" * 10_000 + b"\n" + b"b\n" + b"c" * 9_000 + b"\n"
    writer = LogWriter(pipe.writing)
    writer.write(block)
    writer.close()
    assert os.read(pipe.reading, 65536) == block


def test_a_block_without_an_end_of_line_is_written_too(pipe: Pipe) -> None:
    writer = LogWriter(pipe.writing)
    writer.write(b"a" * 10_000)
    writer.close()
    assert os.read(pipe.reading, 65536) == b"a" * 10_000


def test_a_socket_is_written_without_waiting_and_keeps_its_flags() -> None:
    """systemd connects the standard output of a service to a socket of the journal."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        writer = LogWriter(ours.fileno())
        started = time.monotonic()
        for block in range(100):
            writer.write(lines(128, first=block * 128))
        assert time.monotonic() - started < SOON
        assert not is_non_blocking(ours.fileno())
        got = bytearray()
        while len(got) < 128 * 100 * 100:
            got += theirs.recv(65536)
        writer.close()
        assert bytes(got) == lines(128 * 100)
        assert writer.dropped == 0


def test_a_file_gets_everything_at_once(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    with path.open("wb") as file:
        writer = LogWriter(file.fileno())
        writer.write(lines(1000))
        assert path.read_bytes() == lines(1000)
        writer.close()


def test_a_full_disk_costs_lines_and_nothing_else() -> None:
    with open("/dev/full", "wb", buffering=0) as full:
        writer = LogWriter(full.fileno())
        writer.write(lines(5))
        assert writer.dropped == 5
        writer.close()


def test_a_stopped_terminal_delays_no_request() -> None:
    ours, terminal = os.openpty()
    writer = LogWriter(terminal)
    started = time.monotonic()
    for _ in range(100):
        writer.write(lines(128))  # no process reads the other side, as after Ctrl-S
    assert time.monotonic() - started < SOON
    got = b""
    while got.count(b"\n") < 128:
        got += os.read(ours, 65536)
    assert got.replace(b"\r", b"").startswith(lines(100))
    writer.close(timeout=0.05)
    os.close(ours)  # the terminal hangs up, which unblocks the thread


def test_without_standard_output_lines_are_dropped() -> None:
    writer = LogWriter(None)
    writer.write(lines(3))
    writer.close()
    assert writer.dropped == 3


def test_a_closed_standard_output_is_never_written_to_even_if_its_number_is_taken_again(pipe: Pipe) -> None:
    """A free descriptor can become a client connection a moment later."""
    number = os.dup(pipe.writing)
    os.close(number)
    writer = LogWriter(number)
    os.dup2(pipe.writing, number)
    writer.write(lines(3))
    writer.close()
    os.close(number)
    pipe.writer_leaves()
    assert writer.dropped == 3
    assert read_all(pipe.reading) == b""


def test_nothing_is_left_open_after_closing(pipe: Pipe) -> None:
    before = set(os.listdir("/proc/self/fd"))
    ours, theirs = socket.socketpair()
    for descriptor in (pipe.writing, ours.fileno()):
        writer = LogWriter(descriptor)
        writer.write(lines(1))
        writer.close()
    ours.close()
    theirs.close()
    assert set(os.listdir("/proc/self/fd")) == before
