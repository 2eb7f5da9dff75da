"""When a configuration file counts as changed."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.policy.loader import Configuration, load_configuration
from gateway.server.file_watch import EVERY, WatchedFile

TEXT = "upstreams: {web: http://127.0.0.1:9000}\nroutes: []\n"


class Watcher:
    """A watched file with a manual clock."""

    def __init__(self, path: Path) -> None:
        self.now = 0.0
        self.file = WatchedFile(path, lambda: load_configuration(path, {}), clock=lambda: self.now)

    def looks(self, count: int = 1) -> list[bool]:
        """The results of this many checks."""
        changes = []
        for _ in range(count):
            self.now += EVERY
            changes.append(self.file.changed())
        return changes


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "gateway.yaml"
    path.write_text(TEXT)
    return path


def written(path: Path) -> None:
    path.write_text(TEXT + "# more\n")


def renamed(path: Path) -> None:
    other = path.with_name(".gateway.yaml.swp")
    other.write_text(TEXT)
    other.rename(path)


def removed_and_made(path: Path) -> None:
    path.unlink()
    path.with_name("keeps the inode from being taken again").touch()
    path.write_text(TEXT)


CHANGES: dict[str, Callable[[Path], None]] = {
    "written": written,
    "another file in its place": renamed,
    "removed and made anew": removed_and_made,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change_is_reported_once_after_it_is_stable(path: Path, change: Callable[[Path], None]) -> None:
    watcher = Watcher(path)
    assert watcher.looks(2) == [False, False]
    change(path)
    assert watcher.looks(4) == [False, True, False, False]


def test_a_file_that_is_being_written_is_left_alone_until_it_is_done(path: Path) -> None:
    watcher = Watcher(path)
    with path.open("w") as file:
        for line in (TEXT * 3).splitlines(keepends=True):
            file.write(line)
            file.flush()
            assert watcher.looks() == [False]
    assert watcher.looks(3) == [True, False, False]


def test_a_config_map_swaps_the_folder_behind_the_link(tmp_path: Path) -> None:
    for version in ("v1", "v2"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "gateway.yaml").write_text(TEXT)
    (tmp_path / "..data").symlink_to("v1")
    (tmp_path / "gateway.yaml").symlink_to("..data/gateway.yaml")
    watcher = Watcher(tmp_path / "gateway.yaml")
    (tmp_path / "..data_tmp").symlink_to("v2")
    (tmp_path / "..data_tmp").rename(tmp_path / "..data")
    assert watcher.looks(3) == [False, True, False]


def test_a_file_that_is_gone_is_no_change_until_another_is_there(path: Path) -> None:
    watcher = Watcher(path)
    os.rename(path, path.with_name("elsewhere"))
    assert watcher.looks(3) == [False, False, False]
    path.write_text(TEXT)
    assert watcher.looks(3) == [False, True, False]


def test_a_file_that_comes_back_as_it_was_has_not_changed(path: Path) -> None:
    watcher = Watcher(path)
    os.rename(path, path.with_name("elsewhere"))
    watcher.looks(2)
    os.rename(path.with_name("elsewhere"), path)
    assert watcher.looks(3) == [False, False, False]


def test_it_looks_no_more_often_than_it_has_to(path: Path) -> None:
    watcher = Watcher(path)
    written(path)
    changes = []
    for _ in range(30):
        watcher.now += EVERY / 10
        changes.append(watcher.file.changed())
    assert changes.index(True) >= 10


def test_it_loads_the_file(path: Path) -> None:
    assert isinstance(Watcher(path).file(), Configuration)
