"""Log files on a temporarily full disk, and log files truncated by another program."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.support.processes import PROJECT, Gateway
from tests.support.small import small
from tests.support.waiting import eventually

UNLIMITED = (-1, -1)


class _Logging(Gateway):
    """A gateway whose standard output and standard error are separate files, opened like `>` in a shell."""

    def launch(self) -> "Gateway":
        self.address = ("127.0.0.1", 0)
        with self.records.open("wb") as records, self.errors.open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, *self.arguments], stdin=subprocess.DEVNULL, stdout=records, stderr=errors, cwd=PROJECT
            )
        found = eventually(lambda: self.errors.read_text().partition("listening on http://")[2], timeout=20)
        self.address = (self.address[0], int(found.split()[0].rpartition(":")[2]))
        return self

    @property
    def records(self) -> Path:
        return self.folder / "records"

    @property
    def errors(self) -> Path:
        return self.folder / "errors"

    def log(self) -> str:
        return self.errors.read_text()


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[_Logging]:
    configuration = small(
        tmp_path, {"web": "http://127.0.0.1:9"}, storage={"database": "sqlite://"}, observability={"access_log": "json"}
    )
    started = _Logging("serve", configuration, tmp_path)
    started.start()
    yield started
    assert started.stop() == 0


@contextmanager
def _no_space_behind(gateway: Gateway, size: int) -> Iterator[None]:
    """Limit the files of the process to `size` bytes; a write at the limit is short (setrlimit(2)). The database is in
    memory."""
    assert gateway.process is not None
    process = psutil.Process(gateway.process.pid)
    process.rlimit(psutil.RLIMIT_FSIZE, (size, UNLIMITED[1]))
    yield
    process.rlimit(psutil.RLIMIT_FSIZE, UNLIMITED)


def _request(gateway: _Logging, number: int) -> None:
    assert gateway.get(f"/nowhere/{number}").status == 404


def _paths(lines: list[str]) -> list[str]:
    return [json.loads(line)["path"] for line in lines]


@pytest.mark.parametrize("room", [0, 1, 100])
def test_a_torn_record_is_ended_before_the_next(gateway: _Logging, room: int) -> None:
    _request(gateway, 1)
    eventually(lambda: b"/nowhere/1" in gateway.records.read_bytes())
    size = gateway.records.stat().st_size
    with _no_space_behind(gateway, size + room):
        _request(gateway, 2)
        eventually(lambda: gateway.records.stat().st_size == size + room)
        eventually(lambda: "gateway_access_log_dropped_total 1" in gateway.get("/_gateway/metrics").body.decode())
    for number in (3, 4):
        _request(gateway, number)
    eventually(lambda: b"/nowhere/4" in gateway.records.read_bytes())
    *lines, last = gateway.records.read_text().split("\n")
    assert last == ""
    whole = [line for line in lines if line.endswith("}")]
    paths = [path for path in _paths(whole) if path.startswith("/nowhere")]
    assert paths == ["/nowhere/1", "/nowhere/3", "/nowhere/4"]
    assert [len(line) for line in lines if line not in whole] == ([room] if room else [])


def test_a_torn_event_is_ended_before_the_next(gateway: _Logging) -> None:
    size = gateway.errors.stat().st_size
    gateway.config.write_text("routes: no")
    with _no_space_behind(gateway, size + 20):
        gateway.signal(signal.SIGHUP)
        eventually(lambda: gateway.errors.stat().st_size == size + 20)
    gateway.signal(signal.SIGHUP)
    eventually(lambda: "the old configuration stays" in gateway.log())
    torn, *others = gateway.errors.read_bytes()[size:].decode().splitlines()
    assert len(torn) == 20
    assert all(line.startswith("gateway: reload: refused") for line in others)


def test_a_truncated_file_goes_on_at_its_beginning(gateway: _Logging) -> None:
    """logrotate with `copytruncate` does this."""
    _request(gateway, 1)
    eventually(lambda: b"/nowhere/1" in gateway.records.read_bytes())
    for path in (gateway.records, gateway.errors):
        os.truncate(path, 0)
    _request(gateway, 2)
    gateway.config.write_text("routes: no")
    gateway.signal(signal.SIGHUP)
    eventually(lambda: b"/nowhere/2" in gateway.records.read_bytes())
    eventually(lambda: b"the old configuration stays" in gateway.errors.read_bytes())
    assert gateway.records.read_bytes().startswith(b"{")
    assert gateway.errors.read_bytes().startswith(b"gateway: reload")
