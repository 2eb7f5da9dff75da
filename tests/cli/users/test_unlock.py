"""`gateway users unlock` beside a gateway with lockout."""

import json
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.stores.valkey import ValkeyServer
from tests.cli.running import one_plain_line, run_here
from tests.support.configurations import changed
from tests.support.gateways import Gateways
from tests.support.processes import PASSWORD, Face, Gateway

LOCKOUT = {"failures": 3, "window": "15m", "ban": "15m", "per_address_failures": 7}


@pytest.fixture
def counting(gateways: Gateways, face: Face, tmp_path: Path, valkey: ValkeyServer) -> Iterator[Gateway]:
    """A gateway over Redis with lockout."""
    storage = {"database": f"sqlite:///{tmp_path / 'gateway.db'}", "redis": valkey.url}
    configuration = changed(gateways.configuration(tmp_path), accounts={"lockout": LOCKOUT}, storage=storage)
    gateway = Gateway(face, configuration, tmp_path).start()
    yield gateway
    gateway.stop()


def login(gateway: Gateway, email: str, password: str = "wrong password") -> int:
    return gateway.post("/auth/login", {"email": email, "password": password}).status


def unlock(gateway: Gateway, *arguments: str) -> tuple[int, str, str]:
    outcome = run_here("users", "unlock", *arguments, "--config", str(gateway.config), folder=gateway.folder)
    return outcome.code, outcome.out, outcome.err


def test_an_account_is_unlocked_in_a_running_gateway(counting: Gateway) -> None:
    email = counting.register(f"ada-{time.time_ns()}@example.com").email
    assert [login(counting, email) for _ in range(4)] == [401, 401, 401, 429]
    assert unlock(counting, email.upper()) == (0, f"Reset the failed logins of {email}.\n", "")
    assert login(counting, email, PASSWORD) == 200
    for number in range(4):
        assert login(counting, f"nobody-{number}@example.com") == 401
    assert login(counting, email, PASSWORD) == 429, "the address has failed too often"
    assert unlock(counting, email)[0] == 0
    assert login(counting, email, PASSWORD) == 429
    code, output, _ = unlock(counting, email, "--address", "127.0.0.1")
    assert (code, output) == (0, f"Reset the failed logins of {email}, and all failures of 127.0.0.1.\n")
    assert login(counting, email, PASSWORD) == 200
    with sqlite3.connect(counting.folder / "gateway.db") as database:
        rows = database.execute("SELECT actor, after FROM audit WHERE action = 'user.unlocked' ORDER BY id").fetchall()
    assert [(actor, json.loads(after) if after else None) for actor, after in rows] == [
        ("command-line", None),
        ("command-line", None),
        ("command-line", {"address": "127.0.0.1"}),
    ]


CONFIGURATION = """\
storage: {database: "sqlite:///gateway.db"%s}
accounts: {password: {bcrypt_rounds: 4}}
upstreams: {web: http://127.0.0.1:9000}
routes: [{path: /**, upstream: web}]
"""


def written(folder: Path, redis: str) -> Path:
    path = folder / "gateway.yaml"
    path.write_text(CONFIGURATION % redis)
    assert run_here("db", "upgrade", "--config", str(path), folder=folder).code == 0
    return path


@pytest.mark.parametrize(
    ("redis", "message"),
    [
        ("", "which commands cannot reach: a locked-out user can try again 15m after"),
        (", redis: 'redis://127.0.0.1:1/0'", "Redis did not answer, so nothing was unlocked"),
    ],
)
def test_a_failure_is_reported_clearly(tmp_path: Path, redis: str, message: str) -> None:
    config = str(written(tmp_path, redis))
    outcome = run_here("users", "unlock", "ada@example.com", "--config", config, folder=tmp_path)
    assert (outcome.code, outcome.out) == (2, "")
    assert message in one_plain_line(outcome.err)


def test_a_misspelt_address_unlocks_no_account(tmp_path: Path, shared_valkey: ValkeyServer) -> None:
    config = str(written(tmp_path, f", redis: '{shared_valkey.url}'"))
    outcome = run_here("users", "unlock", "ada@example.com", "--config", config, folder=tmp_path)
    assert (outcome.code, outcome.out) == (1, "")
    assert "No account has this e-mail address" in one_plain_line(outcome.err)
    outcome = run_here("users", "unlock", "ada", "--address", "here", "--config", config, folder=tmp_path)
    assert outcome.code == 2
    assert "'here' is not an IP address" in one_plain_line(outcome.err)
