"""The gateway run like by its users: its own process on its own port, with a configuration file."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import psutil
import yaml

from bench.processes import free_port as free_port
from tests.support import launcher
from tests.support.launcher import Launched, launch
from tests.support.raw import Address, Answer, Caller, ask
from tests.support.token_factory import claims_of
from tests.support.waiting import eventually
from tests.support.wording import bearer, request

Configuration = dict[str, Any]
Face = Literal["serve", "asgi"]
FACES: tuple[Face, ...] = ("serve", "asgi")
Engine = Literal["native", "httpx"]
PASSWORD = "correct horse battery"
PROJECT = launcher.PROJECT

_UVICORN = ["-m", "uvicorn", "--factory", "gateway.app:create_app_from_environment", "--http", "httptools"]
_UVICORN += ["--loop", "uvloop", "--no-access-log", "--no-proxy-headers", "--no-server-header", "--no-date-header"]
_UVICORN += ["--log-level", "warning"]  # at `info` it logs the query of WebSocket handshakes, which can contain tokens
_LISTS_CHILDREN = Path(f"/proc/self/task/{os.getpid()}/children").exists()
_numbers = count(1)


@dataclass(frozen=True, slots=True)
class Account:
    """A signed-in account."""

    id: str
    email: str
    token: str
    password: str = PASSWORD

    @property
    def line(self) -> bytes:
        """The field line with this account's token."""
        return bearer(self.token)


def write_configuration(folder: Path, configuration: Configuration | str) -> Path:
    """Write the configuration to a new file in this folder."""
    text = configuration if isinstance(configuration, str) else _yaml(configuration)
    path = folder / f"gateway-{next(_numbers)}.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def _yaml(configuration: Configuration) -> str:
    """The text of a configuration. libyaml writes ten thousand routes in a tenth of the time."""
    text: str = yaml.dump(configuration, Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper), sort_keys=False)
    return text


def command(config: Path, *arguments: str, input: str | None = None) -> "subprocess.CompletedProcess[str]":
    """Run `gateway ARGUMENTS --config FILE` to its end."""
    return launcher.run(["-m", "gateway", *arguments, "--config", str(config)], input=input or "")


class PortTaken(AssertionError):
    """Another process listens on the port that was free before the start."""


class Gateway:
    """One running gateway. `start` returns when it answers; `stop` returns its exit code. `prefix` is a command that
    runs it, for example in its own namespace. With `imports` the process imports the gateway itself instead of coming
    from the launcher. `environment` adds variables."""

    prefix: tuple[str, ...] = ()
    imports = False
    port: int | None = None  # None: any free port
    environment: Mapping[str, str] = MappingProxyType({})

    def __init__(self, face: Face, configuration: Configuration | str, folder: Path, engine: Engine = "native") -> None:
        self.face: Face = face
        self.engine: Engine = engine  # that of the configuration's upstreams
        self.folder = folder
        self.config = write_configuration(folder, configuration)
        self.log_file = self.config.with_suffix(f".{face}.log")
        self.address: Address = ("127.0.0.1", 0)
        port = None if isinstance(configuration, str) else configuration.get("server", {}).get("operations_port")
        self.operations: Address | None = None if port is None else ("127.0.0.1", port)
        self.process: subprocess.Popen[bytes] | Launched | None = None

    # ---- the process

    def launch(self) -> "Gateway":
        """Start the process without waiting for it."""
        self.address = ("127.0.0.1", self.port or free_port())
        env = os.environ | self.environment | {"GATEWAY_CONFIG": str(self.config)}
        with self.log_file.open("ab") as log, open(os.devnull, "rb") as null:
            if self.prefix or self.imports:
                command = [*self.prefix, sys.executable, *self.arguments]
                self.process = subprocess.Popen(
                    command, stdin=null, stdout=log, stderr=subprocess.STDOUT, cwd=PROJECT, env=env
                )
            else:
                self.process = launch(
                    self.arguments, stdin=null.fileno(), stdout=log.fileno(), stderr=log.fileno(), env=env
                )
        return self

    @property
    def arguments(self) -> list[str]:
        """The command line of Python."""
        port = ["--host", self.address[0], "--port", str(self.address[1])]
        if self.face == "serve":
            return ["-m", "gateway", "serve", "--config", str(self.config), *port]
        return [*_UVICORN, *port]

    def start(self, within: float = 20.0) -> "Gateway":
        """Start the process. Another process can take the free port in the meantime; then another port is tried."""
        for _ in range(3):
            self.launch()
            with contextlib.suppress(PortTaken):
                return self.ready(within)
        raise AssertionError("three free ports were taken by other processes")

    def ready(self, within: float = 20.0) -> "Gateway":
        """Wait until it answers."""
        try:
            eventually(self._answers, timeout=within, every=0.02)
        except AssertionError:
            self.kill()
            if "address already in use" in self.log():
                self.log_file.unlink()
                raise PortTaken from None
            raise AssertionError(f"the gateway does not answer ({self.face}):\n{self.log()[-4000:]}") from None
        return self

    def _answers(self) -> bool:
        assert self.process is not None
        if (code := self.process.poll()) is not None:
            raise AssertionError(f"the gateway ended with exit code {code}:\n{self.log()[-4000:]}")
        try:
            return ask(self.operations or self.address, request("/_gateway/ready"), timeout=1.0).status == 200
        except (OSError, AssertionError):
            return False

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def signal(self, number: signal.Signals = signal.SIGTERM) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def wait(self, within: float = 10.0) -> int:
        """The exit code."""
        assert self.process is not None
        return self.process.wait(within)

    def stop(self, within: float = 10.0) -> int:
        """Send SIGTERM, and SIGKILL if it does not end in time."""
        if self.process is None:
            return 0
        self.signal()
        return self.stopped(within)

    def stopped(self, within: float = 10.0) -> int:
        """The exit code after SIGTERM; sends SIGKILL if it does not end in time."""
        try:
            return self.wait(within)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"SIGTERM did not end the gateway within {within} s ({self.face})") from None

    def kill(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(5)

    def log(self) -> str:
        return self.log_file.read_text(encoding="utf-8", errors="replace")

    def memory(self) -> int:
        """Resident bytes of the process and its children."""
        assert self.process is not None
        return sum(psutil.Process(pid).memory_info().rss for pid in _with_children(self.process.pid))

    def loop_seconds(self) -> float:
        """The CPU time of the event loop's thread (Linux, with one worker)."""
        assert self.process is not None
        return _cpu_seconds(Path(f"/proc/{self.process.pid}/task/{self.process.pid}"))

    def cpu_seconds(self) -> float:
        """The CPU time of all living threads of the process (Linux)."""
        assert self.process is not None
        return sum(map(_cpu_seconds, Path(f"/proc/{self.process.pid}/task").iterdir()))

    # ---- requests

    def caller(self, timeout: float = 5.0, *, receive_buffer: int | None = None) -> Caller:
        """A new connection."""
        return Caller(self.address, timeout=timeout, receive_buffer=receive_buffer)

    def ask(self, data: bytes, *, method: str | None = None, timeout: float = 5.0) -> Answer:
        """One response to these bytes on a new connection."""
        return ask(self.address, data, method=method, timeout=timeout)

    def get(self, target: str | bytes, *fields: str | bytes) -> Answer:
        return self.ask(request(target, fields=fields))

    def post(self, target: str, body: dict[str, Any] | bytes, *fields: str | bytes) -> Answer:
        """POST a JSON body, or these bytes unchanged."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        lines = ["Content-Type: application/json", *fields]
        return self.ask(request(target, method="POST", fields=lines, body=data), timeout=15)

    def command(self, *arguments: str, input: str | None = None) -> "subprocess.CompletedProcess[str]":
        """Run a `gateway` command with this gateway's configuration; it must succeed."""
        done = command(self.config, *arguments, input=input)
        assert done.returncode == 0, f"gateway {' '.join(arguments)}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done

    def register(self, email: str, password: str = PASSWORD) -> Account:
        answer = self.post("/auth/register", {"email": email, "password": password})
        assert answer.status == 201, (answer.status, answer.body)
        return _account(answer, email, password)

    def login(self, email: str, password: str = PASSWORD) -> Account:
        answer = self.post("/auth/login", {"email": email, "password": password})
        assert answer.status == 200, (answer.status, answer.body)
        return _account(answer, email, password)

    def newcomer(self, password: str = PASSWORD) -> Account:
        """A new account that no other test uses."""
        return self.register(f"newcomer-{time.time_ns()}@example.com", password)


def _with_children(pid: int) -> Iterator[int]:
    """The ids of the process and of all its children. Linux lists the children of each thread. Elsewhere psutil reads
    the parent of every process of the machine, which takes 5 ms."""
    yield pid
    if not _LISTS_CHILDREN:
        yield from (process.pid for process in psutil.Process(pid).children(recursive=True))
        return
    for each in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # the thread has ended
            for child in each.read_text().split():
                yield from _with_children(int(child))


def _cpu_seconds(thread: Path) -> float:
    return int((thread / "schedstat").read_text().split()[0]) / 1e9


def _account(answer: Answer, email: str, password: str) -> Account:
    token = answer.json()["access_token"]
    return Account(str(claims_of(token)["sub"]), email, token, password)
