"""Checks the configuration file twice a second, for `gateway serve --watch`.

It polls, because notifications report changes of a name or of an inode, and editors, config maps of Kubernetes and
network file systems change one, the other or neither. The size and the time of the last change behind the path work for
all of them. A change counts once it stays the same for two checks, so that a file is not read while it is being
written. A path that temporarily leads nowhere is no change.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from gateway.policy.loader import Configuration

EVERY: Final = 0.5  # seconds between two checks

_Look = tuple[int, int, int, int]


class WatchedFile:
    """Loads a configuration with `load`, and reports when the file has changed. `clock` returns seconds.

    Create it before the first load, so that it notices changes after that.
    """

    def __init__(
        self, path: Path, load: Callable[[], Configuration], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._path = path
        self._load = load
        self._clock = clock
        self._due = clock() + EVERY
        self._known = self._look()
        self._seen = self._known

    def __call__(self) -> Configuration:
        return self._load()

    def changed(self) -> bool:
        """Return whether the file has changed since the last time this was True, or since the start. Cheap enough for
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

    def _look(self) -> _Look | None:
        try:
            found = self._path.stat()  # follows symbolic links
        except OSError:
            return None
        return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size
