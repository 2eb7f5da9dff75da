"""Gateways over real stores, and clients with persistent connections."""

import http.client
import json
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.processes import BenchError, Running, free_port, start, wait_for_port
from bench.stores.postgres import PostgresServer, running_postgres
from bench.stores.valkey import running as running_valkey
from bench.upstream import start_upstream

ROOT = Path(__file__).resolve().parents[2]
PASSWORD = "correct horse battery"
SECRET = "0123456789abcdef" * 2  # used for one run on loopback only

CONFIGURATION = """\
server: {host: 127.0.0.1, port: %(port)d}
storage: {database: "%(database)s", redis: %(redis)s}
accounts:
  password: {bcrypt_rounds: %(rounds)d}
  lockout: {failures: 1000000, per_address_failures: 1000000}
  registration_limit: null
tokens: {keys: [{kid: k1, algorithm: HS256, secret: "%(secret)s"}]}
upstreams: {api: {targets: ["http://127.0.0.1:%(upstream)d"], max_connections: 1024}}
observability: {access_log: "off"}
routes:
  - {path: /api/audit/**, roles: [auditor], upstream: api}
  - {path: /api/**, upstream: api}
"""


class Answer:
    """A status and a JSON body."""

    def __init__(self, status: int, body: bytes) -> None:
        self.status = status
        self._body = body

    def json(self) -> Any:
        return json.loads(self._body)


class Caller:
    """One connection to a gateway."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)

    def ask(self, method: str, path: str, body: object = None, token: str = "") -> Answer:
        """Send a request and read its complete response."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        if body is not None:
            headers["Content-Type"] = "application/json"
        self._connection.request(method, path, None if body is None else json.dumps(body), headers)
        answer = self._connection.getresponse()
        return Answer(answer.status, answer.read())

    def must(self, method: str, path: str, body: object = None, token: str = "") -> Answer:
        """Like `ask`, but raises BenchError unless the request succeeds."""
        answer = self.ask(method, path, body, token)
        if not 200 <= answer.status < 300:
            raise BenchError(f"{method} {path} was answered {answer.status}")
        return answer

    def close(self) -> None:
        self._connection.close()


@dataclass(frozen=True, slots=True)
class Account:
    """A signed-in account."""

    id: str
    email: str
    token: str
    refresh: str


class Gateway:
    def __init__(self, config: Path, port: int, running: Running) -> None:
        self.config = config
        self.port = port
        self.running = running

    @contextmanager
    def caller(self) -> Iterator[Caller]:
        """A connection that is closed after the block."""
        with closing(Caller(self.port)) as caller:
            yield caller

    def newcomer(self, caller: Caller) -> Account:
        """Register a new account."""
        email = f"{secrets.token_hex(8)}@example.com"
        tokens = caller.must("POST", "/auth/register", {"email": email, "password": PASSWORD}).json()
        me = caller.must("GET", "/auth/me", token=tokens["access_token"]).json()
        return Account(me["id"], email, tokens["access_token"], tokens["refresh_token"])

    def command(self, *arguments: str, stdin: str = "") -> None:
        """Run a command with the configuration of this gateway."""
        run_command(self.config, *arguments, stdin=stdin)


def run_command(config: Path, *arguments: str, stdin: str = "") -> None:
    """Run `gateway ARGUMENTS` to its end. Raises BenchError if it fails."""
    command = [sys.executable, "-m", "gateway", *arguments, "--config", str(config)]
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, cwd=ROOT, timeout=120)
    if done.returncode:
        raise BenchError(f"gateway {' '.join(arguments)}: {done.stderr}")


class Deployment:
    """Starts gateways in one folder, in front of one upstream."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        self._stack = stack
        upstream = start_upstream(folder, None, ours=True)
        stack.callback(upstream.running.stop)
        self._upstream = upstream.port
        self._postgres: PostgresServer | None = None

    def postgres(self) -> str:
        """The address of a new database."""
        if self._postgres is None:
            self._postgres = self._stack.enter_context(running_postgres())
        return self._postgres.url(self._postgres.create_database())

    def valkey(self) -> str:
        """The address of a new Valkey."""
        return self._stack.enter_context(running_valkey(self.folder)).url

    def sqlite(self, name: str) -> str:
        """The address of a new SQLite file."""
        return f"sqlite:///{self.folder / name}.db"

    def configuration(self, database: str, *, redis: str = "null", rounds: int = 4) -> tuple[Path, int]:
        """Write a configuration file; returns it with its port."""
        port = free_port()
        path = self.folder / f"gateway-{port}.yaml"
        values = {"port": port, "database": database, "redis": redis, "rounds": rounds}
        path.write_text(CONFIGURATION % (values | {"secret": SECRET, "upstream": self._upstream}))
        return path, port

    @contextmanager
    def gateway(self, database: str, *, redis: str = "null", rounds: int = 4) -> Iterator[Gateway]:
        """Run a gateway during the block."""
        config, port = self.configuration(database, redis=redis, rounds=rounds)
        run_command(config, "db", "upgrade")
        command = [sys.executable, "-m", "gateway", "serve", "--config", str(config)]
        running = start(command, cpus=None, environment={}, directory=self.folder, name=f"gateway-{port}")
        try:
            wait_for_port(running, port)
            yield Gateway(config, port, running)
        finally:
            running.stop()
