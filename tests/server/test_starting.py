"""The first second of a process, running as PID 1, and closed standard streams."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from bench.stores.valkey import ValkeyServer
from tests.support.fleet import Fleet
from tests.support.processes import PROJECT, Gateway
from tests.support.small import Start, small
from tests.support.waiting import eventually, within

NAMESPACE = ("unshare", "--map-root-user", "--pid", "--fork", "--mount-proc")
Launch = Callable[..., Gateway]


def _has_namespaces() -> bool:
    try:
        return subprocess.run([*NAMESPACE, "true"], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


needs_namespaces = pytest.mark.skipif(not _has_namespaces(), reason="needs unshare and namespaces of PIDs")


@pytest.fixture
def launch(fleet: Fleet, tmp_path: Path) -> Iterator[Launch]:
    """Starts the process of a gateway without waiting until it answers."""
    started: list[Gateway] = []

    def start(*prefix: str, **sections: object) -> Gateway:
        gateway = Gateway("serve", small(tmp_path, {"web": fleet.urls}, **sections), tmp_path)  # type: ignore[arg-type]
        gateway.prefix = prefix
        started.append(gateway)
        gateway.launch()
        return gateway

    yield start
    for gateway in started:
        if gateway.process is not None and gateway.running:
            for process in psutil.Process(gateway.process.pid).children(recursive=True):
                process.kill()
        gateway.kill()


def _blocks(pid: int, number: signal.Signals) -> bool:
    """Whether the program that `unshare` runs blocks the signal. `unshare` itself also does so for a moment."""
    status = Path(f"/proc/{pid}/status").read_text()
    named = dict(line.split(":\t", 1) for line in status.splitlines())
    return named["Name"] != "unshare" and bool(int(named["SigBlk"], 16) >> (number - 1) & 1)


def _first_process(gateway: Gateway) -> psutil.Process:
    """PID 1 of the namespace, as soon as it blocks signals."""
    assert gateway.process is not None
    child: psutil.Process = eventually(lambda: psutil.Process(gateway.process.pid).children(), timeout=10)[0]  # type: ignore[union-attr]
    eventually(lambda: _blocks(child.pid, signal.SIGTERM), timeout=10, every=0.001)
    return child


# ---- signals


_INTERRUPTED = """
import signal, sys

class Finder:
    def find_spec(self, name, *_):
        if name == "gateway.cli.program":
            sys.meta_path.remove(self)
            signal.raise_signal({number})

sys.meta_path.insert(0, Finder())
sys.argv[0] = "gateway"
from gateway.__main__ import main
main()
"""


class _Interrupted(Gateway):
    """A gateway that gets a signal when it begins to import its commands."""

    imports = True
    number = signal.SIGTERM

    @property
    def arguments(self) -> list[str]:
        return ["-c", _INTERRUPTED.format(number=int(self.number)), *super().arguments[2:]]


@pytest.fixture
def interrupted(fleet: Fleet, tmp_path: Path) -> Iterator[Callable[[signal.Signals], Gateway]]:
    gateway = _Interrupted("serve", small(tmp_path, {"web": fleet.urls}), tmp_path)

    def launch(number: signal.Signals) -> Gateway:
        gateway.number = number
        return gateway.launch()

    yield launch
    gateway.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_before_anything_is_imported_ends_it_well(
    interrupted: Callable[[signal.Signals], Gateway], number: signal.Signals
) -> None:
    gateway = interrupted(number)
    assert gateway.wait(60) == 0
    assert "Traceback" not in gateway.log()
    assert "listening on" not in gateway.log()


def test_a_reload_before_anything_is_imported_is_obeyed_later(
    interrupted: Callable[[signal.Signals], Gateway],
) -> None:
    gateway = interrupted(signal.SIGHUP).ready()
    eventually(lambda: "the new configuration is in force" in gateway.log())
    assert gateway.stop() == 0


@needs_namespaces
@pytest.mark.parametrize("workers", [1, 2])
def test_as_pid_1_a_stop_in_the_first_moment_is_obeyed(
    launch: Launch, workers: int, lasting_valkey: ValkeyServer
) -> None:
    gateway = launch(*NAMESPACE, server={"workers": workers}, storage={"redis": lasting_valkey.url})
    _first_process(gateway).terminate()
    assert gateway.wait(60) == 0


ORPHAN = "(sleep 0.2 &) ; exit 0"


@needs_namespaces
@pytest.mark.parametrize("workers", [1, 2])
def test_as_pid_1_it_reaps_orphans(launch: Launch, workers: int, lasting_valkey: ValkeyServer) -> None:
    gateway = launch(*NAMESPACE, server={"workers": workers}, storage={"redis": lasting_valkey.url})
    first = _first_process(gateway)
    gateway.ready()
    before = len(first.children())
    enter = ["nsenter", "--target", str(first.pid), "--user", "--mount", "--pid", "--preserve-credentials"]
    for _ in range(3):
        subprocess.run([*enter, "sh", "-c", ORPHAN], check=True, timeout=10)
    eventually(lambda: len(first.children()) >= before + 1)
    eventually(lambda: len(first.children()) == before)
    first.terminate()
    assert gateway.wait(60) == 0


# ---- standard streams


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_it_serves_without_standard_streams(launch: Launch, closed: str) -> None:
    gateway = launch("sh", "-c", f'exec "$@" {closed}', "sh", observability={"access_log": "json"})
    gateway.ready()
    assert gateway.process is not None
    for number in range(3):
        target = os.readlink(f"/proc/{gateway.process.pid}/fd/{number}")
        assert target == "/dev/null" or target == str(gateway.log_file), target
    assert gateway.get("/web/x").status == 200
    assert gateway.stop() == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_behind_standard_error_prevents_neither_the_start_nor_a_clean_exit(launch: Launch) -> None:
    gateway = launch("sh", "-c", 'exec "$@" 2>/dev/full', "sh")
    gateway.ready()
    assert gateway.get("/web/x").status == 200
    assert gateway.stop() == 0


def test_a_command_without_standard_output_works(tmp_path: Path) -> None:
    command = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", sys.executable, "-m", "gateway", "schema"]
    assert subprocess.run(command, cwd=PROJECT, timeout=20, check=False).returncode == 0


# ---- a stop while thousands of routes are loaded


@pytest.mark.parametrize("workers", [1, 2])
def test_a_stop_does_not_wait_for_reloads(
    start: Start, fleet: Fleet, workers: int, lasting_valkey: ValkeyServer
) -> None:
    gateway = start({"web": fleet.urls}, server={"workers": workers}, storage={"redis": lasting_valkey.url})
    _with_slow_file(gateway)
    for _ in range(20):
        gateway.signal(signal.SIGHUP)
        time.sleep(0.01)
    with within(5.0):
        assert gateway.stop() == 0
    assert "the new configuration is in force" not in gateway.log()


def test_signals_during_a_reload_lead_to_one_more(start: Start, fleet: Fleet) -> None:
    gateway = start({"web": fleet.urls})
    fifo = _with_slow_file(gateway)
    for _ in range(10):
        gateway.signal(signal.SIGHUP)
        time.sleep(0.01)
    assert gateway.get("/web/x").status == 200  # while the file is being read
    gateway.config.unlink()
    gateway.config.write_text(fifo.text)
    fifo.answer()
    eventually(lambda: gateway.log().count("the new configuration is in force") == 2)
    time.sleep(0.5)
    assert gateway.log().count("the new configuration is in force") == 2


class _SlowFile:
    """A named pipe instead of the configuration file: reading waits for a writer."""

    def __init__(self, path: Path) -> None:
        self.text = path.read_text()
        path.unlink()
        os.mkfifo(path)
        self._path = path.with_suffix(".pipe")
        os.link(path, self._path)

    def answer(self) -> None:
        self._path.write_text(self.text)


def _with_slow_file(gateway: Gateway) -> _SlowFile:
    return _SlowFile(gateway.config)


_REPORT = """
import atexit, sys
from gateway.__main__ import main
atexit.register(lambda: print(f"switch interval {sys.getswitchinterval()}"))
sys.argv[0] = "gateway"
main()
"""


class _Reporting(Gateway):
    """A gateway that prints at its end for how long a thread can hold up the loop."""

    @property
    def arguments(self) -> list[str]:
        return ["-c", _REPORT, *super().arguments[2:]]


def test_a_thread_that_runs_python_holds_up_the_loop_for_half_a_millisecond(fleet: Fleet, tmp_path: Path) -> None:
    gateway = _Reporting("serve", small(tmp_path, {"web": fleet.urls}), tmp_path).start()
    assert gateway.stop() == 0
    assert "switch interval 0.0005" in gateway.log()


# ---- the search for garbage

_COUNTING = """
import gc, sys
def count(phase, info):
    if phase == "start" and info["generation"] == 2:
        print("searched", len(gc.get_objects()), file=sys.stderr, flush=True)
gc.callbacks.append(count)
from gateway.__main__ import main
main()
"""


class _Counted(Gateway):
    """A gateway that logs the number of objects that each full collection searches."""

    imports = True

    @property
    def arguments(self) -> list[str]:
        return ["-c", _COUNTING, *super().arguments[2:]]


def test_the_search_for_garbage_at_the_start_leaves_out_the_objects_of_imports(tmp_path: Path) -> None:
    """The imports make 130,000 objects, and the rest of the start a tenth of that."""
    gateway = _Counted("serve", small(tmp_path, {"web": "http://127.0.0.1:9"}), tmp_path).start()
    try:
        first, *_ = re.findall(r"^searched (\d+)$", gateway.log(), re.MULTILINE)
        assert int(first) < 50_000
    finally:
        gateway.kill()
