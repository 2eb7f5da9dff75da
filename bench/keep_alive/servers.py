"""Servers that close idle connections, with the commands that start them."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from bench.processes import BenchError, Running, free_port, start, wait_for_port

HERE: Final = Path(__file__).parent
_PROJECT: Final = HERE.parent.parent

Command = Callable[[int, float, Path], list[str]]
"""The command of a server, by port, idle timeout in seconds, and folder for build output."""


@dataclass(frozen=True, slots=True)
class Server:
    """One server. `idle` is its usual idle timeout; `needs` is the module or program that must be installed."""

    name: str
    idle: float
    needs: str
    command: Command

    def missing(self) -> bool:
        return find_spec(self.needs) is None and shutil.which(self.needs) is None

    def start(self, idle: float, folder: Path) -> tuple[Running, int]:
        """Start the server; returns it with its port. Raises BenchError."""
        port = free_port()
        environment = {"PYTHONPATH": os.pathsep.join([str(_PROJECT), os.environ.get("PYTHONPATH", "")])}
        command = self.command(port, idle, folder)
        running = start(command, cpus=None, environment=environment, directory=folder, name=self.name)
        wait_for_port(running, port)
        return running, port


def _module(name: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", name, *arguments]


def _gunicorn(port: int, idle: float, folder: Path) -> list[str]:
    options = ("-k", "gthread", "--threads", "8", "--worker-connections", "2000", "--log-level", "error")
    return _module(
        "gunicorn",
        *options,
        "--keep-alive",
        f"{idle:.0f}",
        "-b",
        f"127.0.0.1:{port}",
        "bench.keep_alive.application:wsgi",
    )


def _hypercorn(port: int, idle: float, folder: Path) -> list[str]:
    address = ("-b", f"127.0.0.1:{port}", "--log-level", "error")
    return _module("hypercorn", "--keep-alive", f"{idle:g}", *address, "bench.keep_alive.application:asgi")


def _uvicorn(port: int, idle: float, folder: Path) -> list[str]:
    options = ("--timeout-keep-alive", f"{idle:.0f}", "--log-level", "error", "--lifespan", "off")
    return _module("uvicorn", "--port", str(port), *options, "bench.keep_alive.application:asgi")


def _node(port: int, idle: float, folder: Path) -> list[str]:
    return ["node", str(HERE / "server.js"), str(port), f"{idle:g}"]


def _go(port: int, idle: float, folder: Path) -> list[str]:
    binary = folder / "go-server"
    if not binary.exists():
        caches = {"GOCACHE": str(folder / "go-cache"), "GOPATH": str(folder / "go-path"), "GO111MODULE": "off"}
        build = ["go", "build", "-o", str(binary), str(HERE / "server.go")]
        done = subprocess.run(build, env=os.environ | caches, capture_output=True, text=True, check=False)
        if done.returncode:
            raise BenchError(f"go build failed:\n{done.stderr}")
    return [str(binary), str(port), f"{idle:g}"]


SERVERS: Final[Mapping[str, Server]] = {
    server.name: server
    for server in (
        Server("gunicorn", 2.0, "gunicorn", _gunicorn),
        Server("hypercorn", 5.0, "hypercorn", _hypercorn),
        Server("uvicorn", 5.0, "uvicorn", _uvicorn),
        Server("node", 5.0, "node", _node),
        Server("go", 3.0, "go", _go),
    )
}
