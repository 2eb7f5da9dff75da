"""`gateway serve`: startup messages, options, and shutdown."""

import http.client
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import psutil
import pytest

import gateway
from bench.stores.valkey import ValkeyServer
from tests.cli.running import command_line, environment
from tests.support.launcher import Launched, launch
from tests.support.waiting import eventually

CONFIGURATION = """\
server: {port: 0}
storage: {database: "sqlite:///gateway.db"}
accounts: {password: {bcrypt_rounds: 4}}
upstreams: {web: http://127.0.0.1:9000}
routes: [{path: /**, upstream: web}]
"""


class Server(NamedTuple):
    """A gateway that has printed its address."""

    process: Launched
    url: str
    errors: Path

    def status(self, path: str) -> int:
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=10)
        connection.request("GET", path)
        status = connection.getresponse().status
        connection.close()
        return status


def _listening(errors: Path) -> str | None:
    found = re.search(r"^listening on (http://\S+:\d+)$", errors.read_text(), re.MULTILINE)
    return found[1] if found is not None else None


@contextmanager
def serving(folder: Path, *arguments: str, configuration: str = CONFIGURATION) -> Iterator[Server]:
    (folder / "g.yaml").write_text(configuration)
    errors = folder / "errors"
    with errors.open("w") as file, open(os.devnull, "r+b") as null:
        process = launch(
            ["-m", "gateway", "serve", "--config", "g.yaml", *arguments],
            cwd=folder,
            env=environment(),
            stdin=null.fileno(),
            stdout=null.fileno(),
            stderr=file.fileno(),
        )
        try:
            found = eventually(lambda: _listening(errors), timeout=20)
            assert found is not None
            yield Server(process, found, errors)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(20)


def test_it_answers_when_it_has_announced_its_address(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        assert server.status("/_gateway/ready") == 200


def test_warnings_are_printed_at_startup(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        warning, *_, started, _ = server.errors.read_text().splitlines()
        assert warning.startswith("gateway: warning: g.yaml:3:38: accounts.password.bcrypt_rounds: ")
        assert started.startswith("gateway: start: serving policy=")
        assert f" build={gateway.build()} " in started


def test_the_command_for_the_first_administrator_is_printed_at_startup(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        eventually(lambda: "gateway: start: serving policy=" in server.errors.read_text())
        hint = "run on this machine: gateway users create EMAIL --role admin --config g.yaml"
        assert [hint in line for line in server.errors.read_text().splitlines()].count(True) == 1


@pytest.mark.parametrize(
    ("address", "sessions", "printed"),
    [
        ("http://localhost:8000", "{}", True),
        ("http://localhost:8000", "null", False),
        ("http://127.0.0.1:8000", "{}", False),
        ("https://app.example.com", "{}", False),
    ],
)
def test_the_only_address_for_sessions_on_this_machine_is_printed_at_startup(
    tmp_path: Path, address: str, sessions: str, printed: bool
) -> None:
    server_keys = f"{{port: 0, public_url: '{address}'}}"
    configuration = CONFIGURATION.replace("{port: 0}", server_keys) + f"sessions: {sessions}\n"
    with serving(tmp_path, configuration=configuration) as server:
        assert (f"open {address} in the browser" in server.errors.read_text()) is printed


def test_the_host_and_port_options_win_over_the_file(tmp_path: Path) -> None:
    configuration = CONFIGURATION.replace("{port: 0}", "{host: 192.0.2.1, port: 1}")
    with serving(tmp_path, "--host", "127.0.0.2", "--port", "0", configuration=configuration) as server:
        assert urlsplit(server.url).hostname == "127.0.0.2"
        assert server.status("/_gateway/health") == 200


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_exit_code_0(tmp_path: Path, number: signal.Signals) -> None:
    with serving(tmp_path) as server:
        eventually(lambda: "gateway: start: serving policy=" in server.errors.read_text())
        before = server.errors.read_text()
        server.process.send_signal(number)
        assert server.process.wait(timeout=10) == 0
        assert server.errors.read_text() == before


def test_the_workers_option_starts_so_many_processes(tmp_path: Path, shared_valkey: ValkeyServer) -> None:
    configuration = CONFIGURATION.replace('gateway.db"', f'gateway.db", redis: "{shared_valkey.url}"')
    with serving(tmp_path, "--workers", "2", configuration=configuration) as server:
        workers = psutil.Process(server.process.pid).children()
        assert len(workers) == 2
        assert server.status("/_gateway/ready") == 200
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(timeout=15) == 0
        assert psutil.wait_procs(workers, timeout=5)[1] == []


def test_it_starts_without_optional_dependencies(tmp_path: Path) -> None:
    """It has an interpreter of its own, because the launcher imports everything."""
    (tmp_path / "g.yaml").write_text(CONFIGURATION)
    errors, env = tmp_path / "errors", environment({"PYTHONPROFILEIMPORTTIME": "1"})
    with errors.open("w") as file:
        process = subprocess.Popen(
            command_line("serve", "--config", "g.yaml"), cwd=tmp_path, env=env, stdout=subprocess.DEVNULL, stderr=file
        )
    try:
        eventually(lambda: _listening(errors), timeout=60, every=0.05)
    finally:
        process.terminate()
    assert process.wait(20) == 0
    imported = set(re.findall(r"\| +([\w.]+)$", errors.read_text(), re.MULTILINE))
    assert "gateway.server.serve" in imported
    heavy = (
        "alembic",
        "asyncpg",
        "httpx",
        "opentelemetry",
        "prometheus_client",
        "pydantic",
        "redis",
        "rich",
        "sqlalchemy.orm",
    )
    assert imported.isdisjoint(heavy)


OTHER = CONFIGURATION.replace("path: /**", "path: /only/**")


def count_of(server: Server, what: str) -> int:
    return server.errors.read_text().count(what)


def in_force(server: Server) -> bool:
    """Whether the other configuration is active."""
    return {server.status("/somewhere") for _ in range(8)} == {404}


@pytest.mark.parametrize("workers", [1, 2])
def test_a_change_of_the_file_is_taken_and_a_bad_one_refused_once(
    tmp_path: Path, shared_valkey: ValkeyServer, workers: int
) -> None:
    def with_redis(text: str) -> str:
        return text.replace('gateway.db"', f'gateway.db", redis: "{shared_valkey.url}"')

    file = tmp_path / "g.yaml"
    with serving(tmp_path, "--watch", "--workers", str(workers), configuration=with_redis(CONFIGURATION)) as server:
        assert not in_force(server)
        file.write_text(with_redis(CONFIGURATION).replace("upstream: web", "upstream: wbe"))
        eventually(lambda: count_of(server, "refused, the old configuration stays") > 0)
        assert not in_force(server)
        (tmp_path / "new.yaml").write_text(with_redis(OTHER))
        (tmp_path / "new.yaml").rename(file)
        eventually(lambda: in_force(server))
        assert count_of(server, "refused, the old configuration stays") == 1
        assert count_of(server, "the new configuration is in force policy=") == workers


def test_without_the_option_a_change_of_the_file_is_left_alone(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        (tmp_path / "g.yaml").write_text(OTHER)
        time.sleep(1.5)
        assert not in_force(server)
