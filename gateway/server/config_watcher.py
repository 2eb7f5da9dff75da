"""A configuration file that is looked at twice a second, for `gateway serve --watch`.

Looked at, not listened to: what says that a file has changed says it of a name or of an inode, and editors, config maps
of Kubernetes and network file systems change one, the other or neither. Where the path leads, the size and the time of
the last change are the same for all of them. A change counts once it has stood still from one look to the next, so
that a file is not read while it is being written; a path that leads nowhere for a moment is no change.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from gateway.policy.loader import Configuration

EVERY: Final = 0.5  # seconds between two looks

_Look = tuple[int, int, int, int]


class WatchedFile:
    """Loads a configuration, as `load` does, and knows when that is worth while again. `clock` answers seconds.

    Make it before the file is read for the first time, lest a change between the two be missed.
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
        """Whether there is another file than at the last time this was True, or at the start. Cheap, and meant to be
        asked often."""
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
            found = self._path.stat()  # of what a symbolic link leads to
        except OSError:
            return None
        return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size
