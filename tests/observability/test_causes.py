"""Each cause of an outage has its own line on standard error, once a minute, independent of other causes."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.issuers import DISCOVERY, JWKS, Issuer
from tests.support.processes import PROJECT, Face, Gateway, free_port
from tests.support.small import Start, small, start
from tests.support.waiting import eventually

__all__ = ["start"]

INTERVAL = "gateway.observability.events.INTERVAL"


def test_each_of_three_broken_issuers_is_named(start: Start) -> None:
    failing, empty = Issuer().start(), Issuer().start()
    failing.answers[DISCOVERY] = (500, {}, b"")
    empty.answers[JWKS] = (200, {}, b"no JSON")
    try:
        external = [
            failing.settings("failing"),
            empty.settings("empty"),
            Issuer().settings("gone", jwks_url=f"http://127.0.0.1:{free_port()}/jwks"),
        ]
        gateway = start({"web": "http://127.0.0.1:9"}, tokens={"external": external}, patches={INTERVAL: 1.5})

        def lines(name: str) -> list[str]:
            return [line for line in gateway.log().splitlines() if f"issuer {name}: the keys could not be f" in line]

        for name, reason in (("failing", "answered 500"), ("empty", "not JSON"), ("gone", "ConnectError")):
            eventually(lines, name, timeout=5)
            assert reason in lines(name)[0], lines(name)
            assert "its tokens are refused" in lines(name)[0]
        # Attempts follow after 1, 2 and 5 seconds. Those within the interval are only counted.
        failing.answers[DISCOVERY] = (404, {}, b"")
        eventually(lambda: "answered 404" in lines("failing")[-1], timeout=5)
        eventually(lambda: len(lines("gone")) == 2, timeout=5)
        assert " repeated=1 " in lines("gone")[1]
    finally:
        failing.stop()
        empty.stop()


@pytest.mark.parametrize("face", ["serve", "asgi"])
def test_an_application_that_does_not_run_is_named(start: Start, face: Face) -> None:
    target = f"http://127.0.0.1:{free_port()}"
    gateway = start({"web": target}, face)
    for _ in range(3):
        assert gateway.get("/web/page").status == 502

    def lines() -> list[str]:
        return [line for line in gateway.log().splitlines() if f"target {target} fails: " in line]

    assert len(eventually(lines, timeout=5)) == 1, "further failures within a minute are only counted"
    assert "refused" in lines()[0] or "Connect call failed" in lines()[0]


# ---- a full disk

_MOUNT = 'mount -t tmpfs -o size=2m none "$0" && exec "$@" >>"$0/records"'


def can_mount() -> bool:
    return subprocess.run(["unshare", "-rm", "true"], check=False, capture_output=True).returncode == 0


class OnSmallDisk(Gateway):
    """A gateway whose database and access log are on a file system of 2 MiB, visible only to it and its children."""

    @property
    def prefix(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("unshare", "-rm", "sh", "-c", _MOUNT, str(self.folder / "disk"))

    @property
    def disk(self) -> Path:
        assert self.process is not None
        return Path(f"/proc/{self.process.pid}/root{self.folder}/disk")

    def fill(self) -> None:
        """Fill the disk."""
        with (self.disk / "filler").open("wb", buffering=0) as file:
            for size in (65536, 1):
                while True:
                    try:
                        if file.write(b"x" * size) < size:
                            break
                    except OSError:
                        break

    def make_room(self) -> None:
        os.unlink(self.disk / "filler")


@pytest.fixture
def on_small_disk(tmp_path: Path) -> Iterator[OnSmallDisk]:
    if not sys.platform.startswith("linux") or not can_mount():
        pytest.skip("needs unshare(1) with user and mount namespaces")
    (tmp_path / "disk").mkdir()
    configuration = small(
        tmp_path,
        {"web": "http://127.0.0.1:9"},
        storage={"database": f"sqlite:///{tmp_path}/disk/gateway.db"},
        observability={"access_log": "json"},
    )
    gateway = OnSmallDisk("serve", configuration, tmp_path)
    gateway.start()
    yield gateway
    gateway.kill()


def test_a_full_disk_is_named_once_for_the_database_and_once_for_the_access_log(on_small_disk: OnSmallDisk) -> None:
    gateway = on_small_disk
    known = gateway.newcomer()
    gateway.fill()
    for number in range(6):
        answer = gateway.post("/auth/register", {"email": f"{number}@example.com", "password": known.password})
        assert answer.refused() == (503, "storage_unavailable")
    for _ in range(20):  # more than the last page of the file can hold
        gateway.get("/nowhere")
    eventually(lambda: "lines were dropped: No space left on device" in gateway.log())
    log = gateway.log()
    assert log.count("OperationalError: database or disk is full") == 1, log
    assert log.count("lines were dropped") == 1, log
    gateway.make_room()
    late = {"email": "late@example.com", "password": known.password}
    eventually(lambda: gateway.post("/auth/register", late).status == 201)
    assert gateway.login("late@example.com").id
    records = eventually(lambda: _complete_records(gateway.disk / "records"))
    assert any(record["path"] == "/auth/login" and record["status"] == 200 for record in records)


def _complete_records(path: Path) -> list[dict[str, object]]:
    lines = path.read_text().splitlines()
    found = [json.loads(line) for line in lines if line.endswith("}")]
    return found if found and found[-1]["path"] == "/auth/login" else []


def test_a_gateway_that_writes_to_a_full_device_reports_it(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    configuration = small(tmp_path, {"web": "http://127.0.0.1:9"}, observability={"access_log": "json"})
    gateway = Gateway("serve", configuration, tmp_path)
    gateway.address = ("127.0.0.1", free_port())
    with open("/dev/full", "wb") as full, gateway.log_file.open("wb") as errors:
        gateway.process = subprocess.Popen(
            [sys.executable, *gateway.arguments], stdin=subprocess.DEVNULL, stdout=full, stderr=errors, cwd=PROJECT
        )
    try:
        gateway.ready()
        for _ in range(3):
            gateway.get("/nowhere")
        eventually(lambda: "access-log: lines were dropped: No space left on device" in gateway.log())
        assert gateway.stop() == 0
    finally:
        gateway.kill()
