"""Files that disappear while the gateway runs: it continues with their last content, and logs each change once."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench.stores.valkey import ValkeyServer
from gateway.server.file_watch import EVERY, FileWatch
from tests.server.changing import reload
from tests.support.certificates import Issuer
from tests.support.gateways import unhandled
from tests.support.processes import Gateway, free_port
from tests.support.raw import Caller
from tests.support.recording import RecordingUpstream
from tests.support.small import small
from tests.support.waiting import eventually
from tests.support.wording import request

GET = request("/web/x", host="localhost")


@pytest.fixture(scope="module")
def upstream() -> Iterator[RecordingUpstream]:
    started = RecordingUpstream()
    yield started
    started.stop()


class Watching(Gateway):
    """A gateway that watches its configuration."""

    @property
    def arguments(self) -> list[str]:
        return [*super().arguments, "--watch"]


def away(path: Path) -> Path:
    return path.with_name(f"{path.name}.away")


def lines(gateway: Gateway, path: Path) -> list[str]:
    """The events about a file, without the time."""
    found = re.findall(rf"^gateway: files: {re.escape(str(path))} (.*?)(?: at=\S+)?$", gateway.log(), re.MULTILINE)
    return [str(each) for each in found]


def test_a_gateway_serves_without_its_files_and_reports_each_of_them_once(
    tmp_path: Path, upstream: RecordingUpstream, lasting_valkey: ValkeyServer
) -> None:
    issuer, workers = Issuer(tmp_path), 2
    pair, other = issuer.issue("localhost"), issuer.issue("other", to="upstream")
    secret = tmp_path / "secret"
    secret.write_text("0123456789abcdef0123456789abcdef")
    secret.chmod(0o600)
    behind_tls = {"targets": ["https://127.0.0.1:9"], "tls": {"ca": str(other.certificate)}}
    configuration = small(
        tmp_path,
        {"web": upstream.url, "secure": behind_tls},
        server={"workers": workers, "tls": pair.settings, "operations_port": free_port()},
        storage={"redis": lasting_valkey.url},
        cache={"key": f"${{file:{secret}}}"},
    )
    gateway = Watching("serve", configuration, tmp_path).start()
    try:
        reload(gateway, times=workers)  # each worker serves, and a reload keeps the watches
        created_key = tmp_path / "gateway.db.key.pem"
        files = [gateway.config, pair.certificate, pair.key, other.certificate, secret, created_key]
        for path in files:
            path.rename(away(path))
        eventually(lambda: all(lines(gateway, path) for path in files), timeout=20)
        assert {line for path in files for line in lines(gateway, path)} == {
            "is missing: the gateway continues with its last content; put the file back, because the next start or "
            "reload needs it"
        }
        with Caller(gateway.address, tls=issuer.client()) as caller:
            assert caller.send(GET).receive().status == 200

        changed = [gateway.config, pair.certificate, pair.key, secret]
        for path in (gateway.config, other.certificate, secret, created_key):
            away(path).rename(path)
        for path in (gateway.config, secret):
            path.write_text(path.read_text() + "\n")
        issuer.issue("localhost")
        eventually(lambda: gateway.log().count("renewed certificates are in force") == workers, timeout=20)
        eventually(lambda: gateway.log().count("the new configuration is in force") == 2 * workers, timeout=20)
        eventually(lambda: all(len(lines(gateway, path)) == 2 for path in files), timeout=20)
        assert [path for path in files if lines(gateway, path)[1] != "is back and has not changed"] == changed
        assert lines(gateway, pair.key)[1] == "is back and has changed: it is read now"
        assert lines(gateway, secret)[1] == "is back and has changed: the next start or reload reads it"
        with Caller(gateway.address, tls=issuer.client()) as caller:
            assert caller.send(GET).receive().status == 200
    finally:
        gateway.kill()
    assert not unhandled(gateway), unhandled(gateway)[0]


# ---- the watch, with a manual clock


def removed(path: Path) -> None:
    path.unlink()


def without_its_folder(path: Path) -> None:
    path.parent.rename(away(path.parent))


def behind_a_file(path: Path) -> None:
    without_its_folder(path)
    path.parent.touch()


def behind_a_broken_link(path: Path) -> None:
    path.rename(away(path))
    path.symlink_to("elsewhere")


def behind_a_loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (removed, "is missing"),
        (without_its_folder, "is missing"),
        (behind_a_file, "is missing"),
        (behind_a_broken_link, "is missing"),
        (behind_a_loop, "cannot be read (ELOOP)"),
    ],
)
def test_a_file_out_of_reach_is_reported_once_with_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Callable[[Path], None], reason: str
) -> None:
    path = tmp_path / "folder" / "key.pem"
    path.parent.mkdir()
    path.write_text("key")
    now = [0.0]
    watch = FileWatch([path], lambda: now[0])
    change(path)
    reported = []
    for _ in range(10):
        now[0] += EVERY
        assert not watch.changed()
        reported.append(f"files: {path} {reason}: the gateway continues" in capsys.readouterr().err)
    assert reported == [False, True] + [False] * 8


def test_a_file_that_is_replaced_within_a_moment_is_not_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "key.pem"
    path.write_text("key")
    now = [0.0]
    watch = FileWatch([path], lambda: now[0])
    changes = []
    for step in range(6):
        if step == 1:
            path.unlink()
        elif step == 2:
            path.write_text("another key")
        now[0] += EVERY
        changes.append(watch.changed())
    assert changes == [False, False, False, True, False, False]
    assert capsys.readouterr().err == ""


def test_each_disappearance_of_a_file_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, stays = tmp_path / "key.pem", tmp_path / "certificate.pem"
    path.write_text("key")
    stays.write_text("certificate")
    now = [0.0]
    watch = FileWatch([stays, path], lambda: now[0])

    def look() -> None:
        for _ in range(3):
            now[0] += EVERY
            watch.changed()

    for _ in range(3):
        path.rename(away(path))
        look()
        away(path).rename(path)
        look()
    found = re.findall(r"key\.pem (is \w+)", capsys.readouterr().err)
    assert found == ["is missing", "is back"] * 3
