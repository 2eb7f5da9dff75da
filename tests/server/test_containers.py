"""The environment of containers: a user id without a name, the home of another user, volumes of a group."""

import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import launcher
from tests.support.processes import PROJECT, Gateway, write_configuration
from tests.support.small import small

NAMELESS = ("unshare", "--user", "--map-user=54321", "--map-group=54321")


def _has_user_namespaces() -> bool:
    try:
        return subprocess.run([*NAMELESS, "true"], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


pytestmark = pytest.mark.skipif(not _has_user_namespaces(), reason="needs unshare and user namespaces")
Container = Callable[..., Gateway]


@pytest.fixture(params=["of another user", "that does not exist", "unset"])
def home(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[list[str]]:
    """The arguments of `env` for an unusable home."""
    folder = tmp_path / "home"
    folder.mkdir(mode=0)
    chosen = {"of another user": [f"HOME={folder}"], "that does not exist": ["HOME=/nonexistent"], "unset": ["-uHOME"]}
    yield ["env", "-uUSER", "-uLOGNAME", *chosen[request.param]]
    folder.chmod(0o700)


def _configuration(folder: Path, **storage: str) -> dict[str, Any]:
    configuration = small(folder, {"web": "http://127.0.0.1:9"}, storage=storage)
    key = folder / "k1.pem"
    if not key.exists():
        assert launcher.run(["-m", "gateway", "keys", "generate", "--kid", "k1", "--out", str(key)]).returncode == 0
    if "database" in storage:
        configuration["tokens"] = {"keys": [{"kid": "k1", "algorithm": "ES256", "private_key": f"${{file:{key}}}"}]}
    return configuration


def _run(
    prefix: list[str], configuration: dict[str, Any], folder: Path, *words: str
) -> "subprocess.CompletedProcess[str]":
    config = str(write_configuration(folder, configuration))
    command = [*prefix, *NAMELESS, sys.executable, "-m", "gateway", *words, "--config", config]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, cwd=PROJECT, check=False)


def test_commands_need_neither_a_name_nor_a_home_for_postgresql(
    home: list[str], tmp_path: Path, postgres_url: str
) -> None:
    done = _run(home, _configuration(tmp_path, database=postgres_url), tmp_path, "db", "upgrade")
    assert done.returncode == 0, done.stderr


def test_the_server_needs_neither_a_name_nor_a_home_for_postgresql(tmp_path: Path, postgres_url: str) -> None:
    gateway = Gateway("serve", _configuration(tmp_path, database=postgres_url), tmp_path)
    gateway.prefix = ("env", "-uUSER", "-uLOGNAME", "-uHOME", *NAMELESS)
    gateway.command("db", "upgrade")
    gateway.start()
    assert gateway.stop() == 0


def _users_of_nowhere(prefix: list[str], folder: Path) -> str:
    """Standard error of a command with an address that names no user."""
    configuration = _configuration(folder, database="postgresql://127.0.0.1:1/db")
    done = _run(prefix, configuration, folder, "users", "list")
    assert done.returncode == 2
    return done.stderr


def test_an_address_without_a_user_is_reported_with_the_missing_part(tmp_path: Path) -> None:
    reported = _users_of_nowhere(["env", "-uUSER", "-uLOGNAME", "-uHOME"], tmp_path)
    assert "the address names no user, and the user id 54321 has no name here" in reported


def test_the_environment_can_name_the_user(tmp_path: Path) -> None:
    assert "names no user" not in _users_of_nowhere(["env", "PGUSER=x"], tmp_path)


MODES = {0o600: (True, ""), 0o640: (False, "group"), 0o660: (False, "group"), 0o644: (False, ""), 0o664: (False, "")}


@pytest.mark.parametrize("mode", MODES)
def test_a_volume_of_a_group_is_accepted_only_if_configured(tmp_path: Path, mode: int) -> None:
    plain, accepted = MODES[mode]
    gateway = Gateway("serve", _configuration(tmp_path), tmp_path)
    gateway.start().stop()
    key = tmp_path / "gateway.db.key.pem"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    key.chmod(mode)
    for setting in ("", "group"):
        again = Gateway("serve", _configuration(tmp_path), tmp_path)
        again.environment = {"GATEWAY_KEY_MODE": setting}
        if plain or (setting and accepted == setting):
            again.start().stop()
            assert (f"can be read by its group (mode {mode:04o}" in again.log()) is not plain
        else:
            assert again.launch().wait(20) == 2
            assert f"readable by others (mode {mode:04o}); run: chmod 600" in again.log()
            assert ("or set GATEWAY_KEY_MODE=group" in again.log()) is (accepted == "group")
