"""Startup errors: one line with the remedy, and exit code 2."""

import os
import socket
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.stores.valkey import ValkeyServer
from tests.cli.running import Outcome, command_line, environment, one_plain_line, run
from tests.support.privileges import unprivileged
from tests.support.processes import Gateway
from tests.support.waiting import eventually

GOOD = """\
storage:
  database: sqlite:///gateway.db
upstreams:
  web: http://127.0.0.1:9000
routes:
  - path: /**
    upstream: web
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A valid configuration at the default path, for tests to break."""
    path = tmp_path / "config" / "gateway.yaml"
    path.parent.mkdir()
    path.write_text(GOOD)
    return path


def serve(folder: Path, *arguments: str, env: dict[str, str] | None = None) -> Outcome:
    """A `gateway serve` that must not start."""
    outcome = run("serve", "--port", "0", *arguments, folder=folder, env=env, timeout=20)
    assert outcome.code == 2, outcome
    assert outcome.out == ""
    return outcome


# ---- the file


def test_a_missing_configuration_is_reported_with_the_command_that_makes_one(tmp_path: Path) -> None:
    line = one_plain_line(serve(tmp_path).err)
    assert "config/gateway.yaml" in line
    assert "--config" in line
    assert "gateway demo" in line


@pytest.mark.parametrize("command", [["serve"], ["check"], ["users", "list"], ["keys", "list"], ["db", "upgrade"]])
def test_every_command_reports_a_missing_file(tmp_path: Path, command: list[str]) -> None:
    outcome = run(*command, "--config", "missing.yaml", folder=tmp_path)
    assert outcome.code == 2
    line = one_plain_line(outcome.err)
    assert "missing.yaml: No such file or directory" in line


def test_the_environment_names_the_file_and_the_option_wins(tmp_path: Path, config: Path) -> None:
    env = {"GATEWAY_CONFIG": "from-environment.yaml"}
    assert "from-environment.yaml" in run("check", folder=tmp_path, env=env).err
    assert run("check", "--config", str(config), folder=tmp_path, env=env).code == 0
    assert run("check", folder=tmp_path, env={"GATEWAY_CONFIG": ""}).code == 0


def test_a_folder_is_no_configuration(tmp_path: Path, config: Path) -> None:
    assert "Is a directory" in one_plain_line(serve(tmp_path, "--config", "config").err)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("routes: [", "config/gateway.yaml:"),
        ("", "config/gateway.yaml:1:1: "),
        (GOOD + "sevrer: {}\n", "config/gateway.yaml:8:1: sevrer: "),
        (GOOD.replace("upstream: web", "upstream: wbe"), "config/gateway.yaml:7:15: routes[0].upstream: "),
        (GOOD + "server: {port: high}\n", "config/gateway.yaml:8:16: server.port: "),
        (GOOD + "server: {host: '${NOWHERE_SET}'}\n", "config/gateway.yaml:8:16: server.host: "),
        (GOOD + "  - path: /**\n    upstream: web\n", "config/gateway.yaml:8:"),
    ],
    ids=["broken YAML", "empty", "unknown key", "undefined upstream", "wrong type", "undefined variable", "ambiguous"],
)
def test_a_broken_configuration_is_reported_with_its_position(
    tmp_path: Path, config: Path, text: str, place: str
) -> None:
    config.write_text(text)
    problem, summary = serve(tmp_path).err.splitlines()
    assert problem.startswith(place)
    assert summary == "gateway: the configuration has 1 problem; nothing was done"


def test_all_problems_are_reported_at_once_in_the_order_of_the_file(tmp_path: Path, config: Path) -> None:
    config.write_text(GOOD.replace("upstream: web", "upstream: wbe\n    auth: maybe") + "server: {port: high}\n")
    *problems, summary = serve(tmp_path).err.splitlines()
    assert [problem.split(": ")[1] for problem in problems] == ["routes[0].upstream", "routes[0].auth", "server.port"]
    assert summary == "gateway: the configuration has 3 problems; nothing was done"


@pytest.mark.parametrize("by_option", [True, False])
def test_several_processes_without_a_shared_cache_are_refused(tmp_path: Path, config: Path, by_option: bool) -> None:
    if not by_option:
        config.write_text(GOOD + "server: {workers: 2}\n")
    outcome = serve(tmp_path, *(["--workers", "2"] if by_option else []))
    assert "storage.redis" in outcome.err
    assert "Traceback" not in outcome.err


# ---- keys


def key(folder: Path, text: str) -> None:
    (folder / "key.pem").write_text(text)
    (folder / "key.pem").chmod(0o600)


def with_key(algorithm: str = "ES256") -> str:
    return GOOD + f'tokens:\n  keys:\n    - {{kid: k1, algorithm: {algorithm}, private_key: "${{file:key.pem}}"}}\n'


def test_a_missing_key_file_is_reported_at_its_line(tmp_path: Path, config: Path) -> None:
    config.write_text(with_key())
    problem = serve(tmp_path).err.splitlines()[0]
    assert problem.startswith("config/gateway.yaml:10:")
    assert "key.pem" in problem
    assert "No such file" in problem


@pytest.mark.parametrize(
    ("algorithm", "made_for", "message"),
    [("ES256", None, "PEM"), ("ES256", "EdDSA", "P-256"), ("RS256", "ES256", "RSA")],
    ids=["garbage", "another algorithm", "an EC key for RSA"],
)
def test_an_unreadable_key_is_reported_at_its_line_and_never_shown(
    tmp_path: Path, config: Path, algorithm: str, made_for: str | None, message: str
) -> None:
    if made_for is None:
        key(tmp_path, "-----BEGIN PRIVATE KEY-----\nhunter2hunter2\n-----END PRIVATE KEY-----\n")
    else:
        run("keys", "generate", "--algorithm", made_for, "--out", "key.pem", folder=tmp_path)
    config.write_text(with_key(algorithm))
    outcome = serve(tmp_path)
    problem = outcome.err.splitlines()[0]
    assert problem.startswith("config/gateway.yaml:10:")
    assert "tokens.keys[0].private_key" in problem
    assert message in problem
    assert "hunter2" not in outcome.err


def test_a_key_that_others_can_read_is_refused_with_the_command_that_helps(tmp_path: Path, config: Path) -> None:
    run("keys", "generate", "--out", "key.pem", folder=tmp_path)
    (tmp_path / "key.pem").chmod(0o640)
    config.write_text(with_key())
    problem = serve(tmp_path).err.splitlines()[0]
    assert problem.startswith("config/gateway.yaml:10:")
    assert "chmod 600 key.pem" in problem


def test_the_made_key_must_be_a_key(tmp_path: Path, config: Path) -> None:
    made = tmp_path / "gateway.db.key.pem"
    made.write_text("not a key")
    made.chmod(0o600)
    assert "gateway.db.key.pem" in one_plain_line(serve(tmp_path).err)


def test_the_made_key_must_not_be_readable_by_others(tmp_path: Path, config: Path) -> None:
    run("keys", "generate", "--out", "gateway.db.key.pem", folder=tmp_path)
    (tmp_path / "gateway.db.key.pem").chmod(0o644)
    assert "chmod 600" in one_plain_line(serve(tmp_path).err)


# ---- the port


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def test_a_port_in_use_is_reported_with_the_option_that_changes_it(
    tmp_path: Path, config: Path, taken_port: int
) -> None:
    line = one_plain_line(serve(tmp_path, "--port", str(taken_port)).err)
    assert str(taken_port) in line
    assert "in use" in line
    assert "--port" in line


def test_an_address_of_another_machine_is_reported(tmp_path: Path, config: Path) -> None:
    # 192.0.2.0/24 is reserved for documentation (RFC 5737), so no machine has such an address.
    line = one_plain_line(serve(tmp_path, "--host", "192.0.2.1").err)
    assert "192.0.2.1" in line
    assert "--host" in line


# ---- the database


def test_an_sqlite_file_that_is_a_folder_is_reported(tmp_path: Path, config: Path) -> None:
    config.write_text(GOOD.replace("sqlite:///gateway.db", "sqlite:///config"))
    outcome = serve(tmp_path)
    assert "storage.database: is a folder, found 'sqlite:///config'" in outcome.err.splitlines()[0]


def test_a_file_that_is_no_database_is_reported_and_left_alone(tmp_path: Path, config: Path) -> None:
    (tmp_path / "gateway.db").write_bytes(b"somebody's letter, " * 100)
    assert "is a file that is not an SQLite database" in serve(tmp_path).err.splitlines()[0]
    assert (tmp_path / "gateway.db").read_bytes() == b"somebody's letter, " * 100


def test_an_sqlite_database_of_a_newer_gateway_is_refused_and_left_alone(tmp_path: Path, config: Path) -> None:
    assert run("db", "upgrade", folder=tmp_path).code == 0
    with sqlite3.connect(tmp_path / "gateway.db") as database:
        database.execute("UPDATE gateway_schema SET version_num = '9999'")
    for command in (["serve", "--port", "0"], ["db", "upgrade"]):
        outcome = run(*command, folder=tmp_path)
        assert outcome.code == 2
        assert "newer" in one_plain_line(outcome.err)


def test_an_unreachable_database_is_one_line_without_the_password(tmp_path: Path, config: Path) -> None:
    run("keys", "generate", "--out", "key.pem", folder=tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]  # free again after this block, so connections are refused
    url = f"postgresql://gateway:hunter2@127.0.0.1:{port}/gateway"
    config.write_text(with_key().replace("sqlite:///gateway.db", url))
    for command in (["serve", "--port", "0"], ["db", "upgrade"], ["users", "list"]):
        outcome = run(*command, folder=tmp_path)
        assert outcome.code == 2
        line = one_plain_line(outcome.err)
        assert "database" in line
        assert "hunter2" not in line


def test_an_empty_postgresql_is_refused_with_the_command_that_helps(
    tmp_path: Path, config: Path, postgres_url: str
) -> None:
    run("keys", "generate", "--out", "key.pem", folder=tmp_path)
    config.write_text(with_key().replace("sqlite:///gateway.db", postgres_url))
    for command in (["serve", "--port", "0"], ["users", "list"]):
        outcome = run(*command, folder=tmp_path)
        assert outcome.code == 2
        assert "run: gateway db upgrade --config config/gateway.yaml" in one_plain_line(outcome.err)
    assert run("db", "upgrade", folder=tmp_path).code == 0
    assert run("users", "list", folder=tmp_path).code == 0


def test_without_a_key_postgresql_needs_the_reported_command(tmp_path: Path, config: Path) -> None:
    config.write_text(GOOD.replace("sqlite:///gateway.db", "postgresql://gateway@127.0.0.1:1/gateway"))
    problem = serve(tmp_path).err.splitlines()[0]
    assert "tokens.keys: " in problem
    assert "gateway keys generate" in problem


# ---- Redis: the only store without which the gateway still starts


def test_without_its_redis_it_starts_reports_that_and_works(tmp_path: Path, config: Path, valkey: ValkeyServer) -> None:
    valkey.kill()
    config.write_text(GOOD.replace("gateway.db", f"gateway.db\n  redis: {valkey.url}"))
    gateway = Gateway("serve", config.read_text().replace("sqlite:///", f"sqlite:///{tmp_path}/"), tmp_path).start()
    try:
        lines = [line for line in gateway.log().splitlines() if "Redis" in line]
        assert len(lines) == 1
        assert lines[0].startswith("gateway: ")
        assert gateway.get("/_gateway/ready").json()["degraded"] == ["redis"]
        account = gateway.register("ada@example.com")
        assert gateway.get("/auth/me", account.line).status == 200
        valkey.start()
        eventually(lambda: not gateway.get("/_gateway/ready").json().get("degraded"))
    finally:
        assert gateway.stop() == 0
    assert "Traceback" not in gateway.log()


def test_environment_variables_of_proxies_and_colour_change_nothing(tmp_path: Path, config: Path) -> None:
    env = {"HTTP_PROXY": "http://192.0.2.1:1", "CLICOLOR_FORCE": "1", "TERM": "xterm-256color"}
    assert one_plain_line(serve(tmp_path, "--host", "192.0.2.1", env=env).err)
    assert os.listdir(tmp_path) == ["config"]


# ---- files that the user of the gateway cannot write


def test_a_folder_that_cannot_be_written_is_named_with_the_remedy(tmp_path: Path, config: Path) -> None:
    config.write_text(GOOD.replace("sqlite:///", f"sqlite:///{tmp_path}/stored/"))
    folder = tmp_path / "stored"
    folder.mkdir(0o500)
    command = [*unprivileged(), *command_line("serve", "--port", "0")]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=20)
    assert done.returncode == 2
    line = one_plain_line(done.stderr)
    assert f"{folder}/gateway.db.key.pem: Permission denied; the signing key is created there" in line
    assert line.endswith(f"the user of the gateway must be able to write the folder {folder}")


@pytest.mark.parametrize(
    ("is_folder", "reason"), [(False, "this user cannot read and write it"), (True, "not a regular file")]
)
def test_a_database_file_that_cannot_be_written_is_named_with_the_remedy(
    tmp_path: Path, config: Path, is_folder: bool, reason: str
) -> None:
    file = tmp_path / "gateway.db"
    if is_folder:
        file.mkdir()
    else:
        file.touch(0o400)
    command = [*unprivileged(), *command_line("users", "list")]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=20)
    assert done.returncode == 2
    assert f"the database file cannot be opened: {file}: {reason} (storage.database: " in done.stderr
    assert f"must be able to write {file} and its folder)" in done.stderr
