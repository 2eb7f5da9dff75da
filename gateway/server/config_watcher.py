"""Checks files twice a second: the configuration for `gateway serve --watch`, and certificates always.

It polls, because notifications report changes of a name or of an inode, and editors, config maps of Kubernetes and
network file systems change one, the other or neither. The size and the time of the last change behind the path work for
all of them. A change counts once it stays the same for two checks, so that a file is not read while it is being
written. A path that temporarily leads nowhere is no change.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from gateway.policy.loader import Configuration

EVERY: Final = 0.5  # seconds between two checks

_Look = tuple[int, int, int, int]


class FileWatch:
    """Reports when one of several files has changed. `clock` returns seconds.

    Create it before the files are read, so that it notices changes after that.
    """

    def __init__(self, paths: Sequence[Path], clock: Callable[[], float] = time.monotonic) -> None:
        self._paths = paths
        self._clock = clock
        self._due = clock() + EVERY
        self._known = self._look()
        self._seen = self._known

    def changed(self) -> bool:
        """Return whether a file has changed since the last time this was True, or since the start. Cheap enough for
        frequent calls."""
        now = self._clock()
        if now < self._due:
            return False
        self._due = now + EVERY
        before, self._seen = self._seen, self._look()
        if self._seen is None or self._seen == self._known or self._seen != before:
            return False
        self._known = self._seen
        return True

    def _look(self) -> list[_Look] | None:
        try:
            found = [path.stat() for path in self._paths]  # follows symbolic links
        except OSError:
            return None
        return [(each.st_dev, each.st_ino, each.st_mtime_ns, each.st_size) for each in found]


class WatchedFile(FileWatch):
    """Loads a configuration with `load`, and reports when the file has changed."""

    def __init__(
        self, path: Path, load: Callable[[], Configuration], clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__([path], clock)
        self._load = load

    def __call__(self) -> Configuration:
        return self._load()
