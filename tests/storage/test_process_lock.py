"""Processes without a shared Redis do not serve from one database; the second one refuses with the reason."""

import signal
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from bench.stores.valkey import ValkeyServer
from gateway.policy.loader import load_configuration
from gateway.settings.store_files import unusable_files
from gateway.storage.sqlite import open_sqlite
from tests.server.changing import reload
from tests.support import launcher
from tests.support.processes import PASSWORD, Face, Gateway, write_configuration
from tests.support.small import Start, small, start
from tests.support.waiting import eventually

__all__ = ["start"]

UPSTREAM = {"web": "http://127.0.0.1:9"}
REFUSAL = "serves from"


def second(gateway: Gateway, face: Face, **storage: str) -> Gateway:
    """Another gateway over the database of the first, started without waiting."""
    configuration = small(gateway.folder, UPSTREAM, storage=storage)
    return Gateway(face, configuration, gateway.folder).launch()


@pytest.mark.parametrize("first", ["serve", "asgi"])
@pytest.mark.parametrize("face", ["serve", "asgi"])
def test_a_second_process_without_redis_is_refused(start: Start, first: Face, face: Face) -> None:
    gateway = start(UPSTREAM, first)
    other = second(gateway, face)
    assert other.wait(20) != 0
    assert other.log().count(REFUSAL) == 1
    assert f"another process serves from {gateway.folder}/gateway.db" in other.log()
    assert "set storage.redis, or run one process" in other.log()
    assert "Traceback" not in other.log()
    assert gateway.get("/_gateway/ready").status == 200


def test_another_path_to_the_same_file_is_refused(start: Start, tmp_path: Path) -> None:
    gateway = start(UPSTREAM)
    (tmp_path / "link.db").symlink_to("gateway.db")
    other = second(gateway, "serve", database=f"sqlite:///{tmp_path}/link.db")
    assert other.wait(20) == 2
    assert REFUSAL in other.log()


def test_processes_with_redis_share_a_database(start: Start, lasting_valkey: ValkeyServer) -> None:
    gateway = start(UPSTREAM, storage={"redis": lasting_valkey.url})
    other = second(gateway, "serve", redis=lasting_valkey.url).ready()
    assert other.stop() == 0


@pytest.mark.parametrize("first_has_redis", [True, False])
def test_one_with_redis_and_one_without_do_not(
    start: Start, lasting_valkey: ValkeyServer, first_has_redis: bool
) -> None:
    redis = {"redis": lasting_valkey.url}
    gateway = start(UPSTREAM, storage=redis if first_has_redis else {})
    other = second(gateway, "serve", **({} if first_has_redis else redis))
    assert other.wait(20) == 2
    assert REFUSAL in other.log()


def test_commands_are_not_refused(start: Start) -> None:
    gateway = start(UPSTREAM)
    gateway.command("users", "create", "ada@example.com", "--password-stdin", input=f"{PASSWORD}\n")
    assert "ada@example.com" in gateway.command("users", "list").stdout


def locks_on(file: Path) -> int:
    """The number of record locks that processes hold on the file, as Linux lists them."""
    inode = f":{file.stat().st_ino} "
    return sum(inode in line for line in Path("/proc/locks").read_text().splitlines())


@pytest.mark.parametrize("name", ["gateway.db", "with spaces.db", "link.db"])
def test_a_reload_keeps_the_locks_and_commands_keep_later_writes(start: Start, tmp_path: Path, name: str) -> None:
    """A command that finds no lock on the database deletes the write-ahead log, although the gateway writes to it."""
    (tmp_path / "link.db").symlink_to("target.db")
    gateway = start(UPSTREAM, storage={"database": f"sqlite:///{tmp_path}/{quote(name)}"})
    held = locks_on(tmp_path / name)
    for number in range(3):
        gateway.register(f"{number}@example.com")
        reload(gateway)
        assert locks_on(tmp_path / name) >= held > 0
        assert f"{number}@example.com" in gateway.command("users", "list").stdout
    gateway.signal(signal.SIGKILL)
    gateway.wait(10)
    assert gateway.command("users", "list").stdout.count("@example.com") == 3


def test_a_second_application_in_one_process_keeps_the_locks_of_the_first(tmp_path: Path) -> None:
    """Each opens the file, as an application under an ASGI server does that starts while another stops."""
    file = tmp_path / "gateway.db"
    held = sqlite3.connect(file)
    held.execute("PRAGMA journal_mode=WAL")
    held.execute("CREATE TABLE t (x)")
    before = locks_on(file)
    settings = load_configuration(write_configuration(tmp_path, small(tmp_path, UPSTREAM))).settings
    assert unusable_files(settings) == ()
    open_sqlite(settings.storage.database.reveal())
    assert locks_on(file) == before > 0
    held.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_process_that_has_ended_holds_nothing(start: Start, number: signal.Signals) -> None:
    gateway = start(UPSTREAM)
    gateway.signal(number)
    other = second(gateway, "serve").ready()  # while the first is ending
    assert other.stop() == 0


UVICORN = ["uvicorn", "--workers", "2", "--no-proxy-headers", "--factory", "gateway.app:create_app_from_environment"]
GUNICORN = ["gunicorn", "-w", "2", "-k", "asgi", "gateway.app:create_app_from_environment()"]


class Workers(Gateway):
    """The application in several processes of an ASGI server."""

    server: Sequence[str] = ()

    @property
    def arguments(self) -> list[str]:
        host, port = self.address
        place = ["--bind", f"{host}:{port}"] if self.server[0] == "gunicorn" else ["--host", host, "--port", str(port)]
        return ["-m", *self.server, *place]


@pytest.mark.parametrize(
    ("server", "kind"), [(UVICORN, "sqlite"), (GUNICORN, "postgresql")], ids=["uvicorn, SQLite", "gunicorn, PostgreSQL"]
)
def test_workers_of_an_asgi_server_without_redis_are_refused(
    tmp_path: Path, server: list[str], kind: str, request: pytest.FixtureRequest
) -> None:
    pytest.importorskip(server[0])
    storage: dict[str, Any] = {}
    if kind == "postgresql":
        storage["database"] = request.getfixturevalue("postgres_url")
    gateway = Workers("asgi", small(tmp_path, UPSTREAM, storage=storage, tokens=_keys(tmp_path)), tmp_path)
    gateway.server = server
    gateway.command("db", "upgrade")
    gateway.launch()
    try:
        eventually(lambda: REFUSAL in gateway.log(), timeout=30)
        assert "set storage.redis, or run one process" in gateway.log()
    finally:
        gateway.signal()
        gateway.wait(20)


def _keys(folder: Path) -> dict[str, Any]:
    done = launcher.run(["-m", "gateway", "keys", "generate", "--kid", "k1", "--out", str(folder / "k1.pem")])
    assert done.returncode == 0
    return {"keys": [{"kid": "k1", "algorithm": "ES256", "private_key": f"${{file:{folder}/k1.pem}}"}]}
