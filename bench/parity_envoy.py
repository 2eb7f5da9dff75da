"""`python -m bench.parity_envoy`: do the gateway and an Envoy with its exported configuration decide alike?

Policies and requests are made by chance. Each request goes to the gateway itself and to the Envoy; both must refuse it
alike, or send the same thing to the same upstream. Every difference is printed, and the exit code is 1 if there is one.
"""

import argparse
import io
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench.parity import IDENTITY, PEOPLE, ROLES, UPSTREAMS, Asked, Chance, Route
from bench.peers.caddy import find_program
from bench.peers.gateway import connection
from bench.peers.peer import ROOT
from bench.processes import BenchError, free_port, start, wait_for_port
from gateway.cli.program import run
from gateway.errors import Refusal
from gateway.wire.paths import canonical_path

CALLER: Final = "127.0.0.9"  # no trusted proxy, unlike the Envoy, which comes from 127.0.0.1
PASSWORD: Final = "correct horse battery"


class Echo:
    """An upstream that answers with its name and the request as it came."""

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
        with suppress(OSError, ValueError), link, link.makefile("rb") as reader:  # an aborted body ends it as well
            while line := reader.readline():
                fields = []
                while (field := reader.readline()) not in (b"\r\n", b""):
                    fields.append(field.decode("latin-1").rstrip("\r\n"))
                _read_body(reader, fields)
                said = json.dumps({"upstream": self.name, "line": line.decode("latin-1").rstrip(), "fields": fields})
                body = b"" if line.startswith(b"HEAD ") else said.encode()
                head = f"HTTP/1.1 200 OK\r\nX-Echo: {said}\r\nContent-Length: {len(body)}\r\n\r\n"
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
class Outcome:
    """What became of a request: refused with a status and a code, or passed on as the upstream saw it."""

    status: int
    code: str = ""
    upstream: str = ""
    line: str = ""
    seen: tuple[tuple[str, ...], ...] = ()

    def like(self, other: "Outcome", *, native: bool) -> bool:
        """Whether the other one came to the same. Refusals of Envoy's own have no code."""
        if self.upstream or other.upstream:
            if not native:
                return self == other
            mine, its = (_canonical(each.line) for each in (self, other))
            return (self.upstream, mine, self.seen[:1], self.seen[2:]) == (
                other.upstream, its, other.seen[:1], other.seen[2:],
            )  # fmt: skip
        if self.status != other.status:
            return False
        return native or not other.code or self.code == other.code


def _canonical(line: str) -> tuple[str, bytes, str]:
    method, target, _ = line.split(" ")
    path, _, query = target.partition("?")
    try:
        return method, canonical_path(path.encode("latin-1"), relaxed=False), query
    except Refusal:
        return method, path.encode("latin-1"), query


def outcome(port: int, data: bytes) -> Outcome:
    """Send a request and see what becomes of it."""
    with socket.create_connection(("127.0.0.1", port), timeout=10, source_address=(CALLER, 0)) as link:
        link.sendall(data)
        received = _answer(link, has_body=not data.startswith(b"HEAD "))
    head, _, body = received.partition(b"\r\n\r\n")
    status, *fields = head.decode("latin-1").split("\r\n")
    echoed = next((field.partition(":")[2] for field in fields if field.lower().startswith("x-echo:")), None)
    number = int(status.split(" ")[1])
    if echoed is not None:
        said = json.loads(echoed)
        return Outcome(number, "", said["upstream"], said["line"], tuple(_seen(said["fields"], name) for name in _SEEN))
    try:
        return Outcome(number, json.loads(body).get("code", ""))
    except ValueError:
        return Outcome(number)


def _answer(link: socket.socket, *, has_body: bool) -> bytes:
    """One answer. Not read to the end of the connection: Envoy gives its callers a second before it closes."""
    received = b""
    while piece := link.recv(65536):
        received += piece
        head, blank, body = received.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
        if blank and (not has_body or (length is not None and len(body) >= int(length[1]))):
            break
    return received


_SEEN: Final = (*IDENTITY, "Authorization", "X-Forwarded-For", "X-Forwarded-Method", "X-Forwarded-Uri", "Forwarded")


def _seen(fields: list[str], name: str) -> tuple[str, ...]:
    """What an upstream that folds names sees under this one. An empty value is none."""
    wanted = name.lower()
    pairs = (field.partition(":") for field in fields)
    folded = ((key.lower().replace("_", "-").replace(".", "-"), value.strip()) for key, _, value in pairs)
    found = tuple(value for key, value in folded if key == wanted and value)
    # What went through the gateway as well has another hop; who the caller is stands first.
    return tuple(value.partition(",")[0] for value in found) if wanted == "x-forwarded-for" else found


# ---- what runs


@dataclass(frozen=True, slots=True)
class Pair:
    """A gateway and the Envoy of its export, running over the same upstreams."""

    gateway: int
    envoy: int
    tokens: dict[str, str]


class Ground:
    """Where pairs are started: upstreams, people and keys are the same for all of them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.echoes = [Echo(name) for name in UPSTREAMS]
        self._number = 0

    def close(self) -> None:
        for echo in self.echoes:
            echo.close()

    @contextmanager
    def pair(self, routes: list[Route], *, native: bool) -> Iterator[Pair]:
        """Start both. Raises BenchError where one of them does not."""
        self._number += 1
        folder = self.directory / f"pair-{self._number}"
        folder.mkdir()
        port, envoy_port = free_port(), free_port()
        file = folder / "gateway.yaml"
        file.write_text(json.dumps(self._configuration(folder, port, routes)))
        bootstrap = folder / "envoy.yaml"
        way = ["--native"] if native else []
        bootstrap.write_text(_gateway("export", "envoy", *way, "--listen", f"127.0.0.1:{envoy_port}", config=file))
        with ExitStack() as stack:
            command = [sys.executable, "-m", "gateway", "serve", "--config", str(file)]
            environment = {"PYTHONPATH": str(ROOT)}
            gateway = start(command, cpus=None, environment=environment, directory=folder, name="gateway")
            stack.callback(gateway.stop)
            wait_for_port(gateway, port)
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
    """Every command in one process: most of what one costs is the start of Python."""
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
    command = [sys.executable, "-m", "gateway", *words, "--config", str(config)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60, check=False)
    if done.returncode:
        raise BenchError(f"gateway {' '.join(words)}: {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    return done.stdout


def _tokens(port: int) -> dict[str, str]:
    """The Authorization of everybody, and some that are no good."""
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


# ---- the comparison


@dataclass(frozen=True, slots=True)
class Difference:
    """A request on which the two disagreed."""

    seed: int
    asked: Asked
    gateway: Outcome
    envoy: Outcome


@dataclass(slots=True)
class Tally:
    """How much was compared, and what came of it."""

    requests: int = 0
    passed: int = 0
    refused: int = 0


def compare(ground: Ground, seed: int, count: int, *, native: bool, tally: Tally) -> Iterator[Difference]:
    """One policy and `count` requests."""
    chance = Chance(seed, native=native)
    routes = chance.routes(12)
    with ground.pair(routes, native=native) as pair:
        for _ in range(count):
            asked = chance.asked(routes)
            data = asked.as_bytes(pair.tokens)
            ours, its = outcome(pair.gateway, data), outcome(pair.envoy, data)
            tally.requests += 1
            tally.passed += bool(ours.upstream)
            tally.refused += not ours.upstream
            if not ours.like(its, native=native):
                yield Difference(seed, asked, ours, its)


def main() -> int:
    """Exit code 1 if there is a difference."""
    parser = argparse.ArgumentParser(prog="python -m bench.parity_envoy", description=__doc__)
    parser.add_argument("--policies", type=int, default=12)
    parser.add_argument("--requests", type=int, default=200, help="for each policy")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    found = 0
    with tempfile.TemporaryDirectory(prefix="gateway-parity-") as directory:
        ground = Ground(Path(directory))
        for native in (False, True):
            tally = Tally()
            for seed in range(options.seed, options.seed + options.policies):
                for difference in compare(ground, seed, options.requests, native=native, tally=tally):
                    found += 1
                    print(difference)
            way = "--native" if native else "ext_authz"
            print(f"{way}: {options.policies} policies, {tally.requests} requests, "
                  f"{tally.passed} passed and {tally.refused} refused by the gateway")  # fmt: skip
        ground.close()
    print(f"{found} differences")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
