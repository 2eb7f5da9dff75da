"""A gateway and an Envoy with its exported policy, in front of the same upstreams, for `parity_envoy`."""

import io
import json
import os
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.peers.caddy import find_program
from bench.peers.gateway import connection
from bench.processes import BenchError, free_port, start, wait_for_port
from gateway.cli.program import run
from tests.properties.parity import PEOPLE, ROLES, UPSTREAMS, Route
from tests.support import launcher
from tests.support.processes import PASSWORD, Gateway


class Echo:
    """An upstream that answers with its name and the received request."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                link, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(link,), daemon=True).start()

    def _serve(self, link: socket.socket) -> None:
        with suppress(OSError, ValueError), link, link.makefile("rb") as reader:  # ValueError: an aborted body
            while line := reader.readline():
                fields = []
                while (field := reader.readline()) not in (b"\r\n", b""):
                    fields.append(field.decode("latin-1").rstrip("\r\n"))
                _read_body(reader, fields)
                content = json.dumps({"upstream": self.name, "line": line.decode("latin-1").rstrip(), "fields": fields})
                body = b"" if line.startswith(b"HEAD ") else content.encode()
                head = f"HTTP/1.1 200 OK\r\nX-Echo: {content}\r\nContent-Length: {len(body)}\r\n\r\n"
                link.sendall(head.encode("latin-1") + body)


def _read_body(reader: Any, fields: list[str]) -> None:
    named = {name.lower(): value.strip() for name, _, value in (field.partition(":") for field in fields)}
    if "chunked" in named.get("transfer-encoding", ""):
        while size := int(reader.readline().split(b";")[0], 16):
            reader.read(size + 2)
        reader.readline()
    else:
        reader.read(int(named.get("content-length", 0)))


@dataclass(frozen=True, slots=True)
class Pair:
    """The ports of a gateway and of Envoy, and the Authorization values by person."""

    gateway: int
    envoy: int
    tokens: dict[str, str]


class ParityLab:
    """Starts pairs with the same upstreams, people and keys."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.echoes = [Echo(name) for name in UPSTREAMS]
        self._number = 0

    def close(self) -> None:
        for echo in self.echoes:
            echo.close()

    @contextmanager
    def pair(self, routes: list[Route], *, native: bool) -> Iterator[Pair]:
        """Start both. Raises BenchError or AssertionError if one does not start."""
        self._number += 1
        folder = self.directory / f"pair-{self._number}"
        folder.mkdir()
        port, envoy_port = free_port(), free_port()
        gateway = Gateway("serve", self._configuration(folder, port, routes), folder)
        gateway.port = port
        bootstrap = folder / "envoy.yaml"
        way = ["--native"] if native else []
        bootstrap.write_text(
            _gateway("export", "envoy", *way, "--listen", f"127.0.0.1:{envoy_port}", config=gateway.config)
        )
        with ExitStack() as stack:
            stack.callback(gateway.stop)
            gateway.start()
            tokens = _tokens(port)
            envoy = start(
                [find_program("envoy") or "envoy", "-c", str(bootstrap), "--concurrency", "1",
                 "--disable-hot-restart", "--log-level", "error"],
                cpus=None, environment={}, directory=folder, name="envoy",
            )  # fmt: skip
            stack.callback(envoy.stop)
            wait_for_port(envoy, envoy_port)
            yield Pair(port, envoy_port, tokens)

    def _configuration(self, folder: Path, port: int, routes: list[Route]) -> dict[str, Any]:
        database = folder / "gateway.db"
        first = self.directory / "pair-1" / "gateway.db"
        configuration: dict[str, Any] = {
            "server": {"port": port, "trusted_proxies": ["127.0.0.1/32"], "max_body": "1KiB"},
            "storage": {"database": f"sqlite:///{database}"},
            "accounts": {"password": {"bcrypt_rounds": 4}},
            "tokens": {"include_roles": True},
            "observability": {"access_log": "off"},
            "roles": ROLES,
            "upstreams": {echo.name: {"targets": [f"http://127.0.0.1:{echo.port}"]} for echo in self.echoes},
            "routes": routes,
        }
        if first.exists():
            for each in first.parent.glob("gateway.db*"):
                (folder / each.name).write_bytes(each.read_bytes())
                (folder / each.name).chmod(0o600)
        else:
            file = folder / "people.yaml"
            file.write_text(json.dumps({**configuration, "routes": []}))
            _make_people(file)
        return configuration


def _make_people(config: Path) -> None:
    """Run all commands in this process, because most of their cost is the start of Python."""
    commands = [["db", "upgrade"]]
    commands += [["users", "create", f"{each}@example.com", "--role", each, "--password-stdin"] for each in PEOPLE]
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        for words in commands:
            before, sys.stdin = sys.stdin, io.StringIO(PASSWORD + "\n")
            try:
                code = run([*words, "--config", str(config)])
            finally:
                sys.stdin = before
            if code:
                raise BenchError(f"gateway {' '.join(words)}: {code}")


def _gateway(*words: str, config: Path) -> str:
    done = launcher.run(["-m", "gateway", *words, "--config", str(config)], timeout=60)
    if done.returncode:
        raise BenchError(f"gateway {' '.join(words)}: {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    return done.stdout


def _tokens(port: int) -> dict[str, str]:
    """Authorization values of all people, and some invalid ones."""
    tokens = {"garbage": "Bearer a.b.c", "basic": "Basic dXNlcjpwYXNz"}
    for person in PEOPLE:
        with connection(port) as link:
            body = json.dumps({"email": f"{person}@example.com", "password": PASSWORD})
            link.request("POST", "/auth/login", body, {"Content-Type": "application/json"})
            answer = link.getresponse()
            content = answer.read()
        if answer.status != 200:
            raise BenchError(f"could not sign in: {answer.status} {content[:300]!r}")
        tokens[person] = "Bearer " + json.loads(content)["access_token"]
    return tokens
