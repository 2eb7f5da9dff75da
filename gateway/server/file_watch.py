"""Files that the gateway has read: the configuration for `gateway serve --watch`, certificates, keys and secrets.

A watch checks its files twice a second. It polls, because notifications report changes of a name or of an inode, and
editors, config maps of Kubernetes and network file systems change one, the other or neither. The size and the time of
the last change behind the path work for all of them. A change counts once it stays the same for two checks, so that a
file is not read while it is being written.

A file that is missing for two checks is no change: the gateway continues with its last content. The watch logs one line
when the file disappears, because the next start or reload needs it, and one when the file is back.
"""

import errno
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from gateway.identity.signing_keys import made_key_path
from gateway.observability.events import event
from gateway.policy.loader import Configuration
from gateway.settings.model import Settings

EVERY: Final = 0.5  # seconds between two checks


class _State(NamedTuple):
    """A file behind its path, or the error number that hides it."""

    error: int = 0
    device: int = 0
    inode: int = 0
    mode: int = 0
    changed_at: int = 0
    size: int = 0


class FileWatch:
    """Reports when one of several files has changed. `clock` returns seconds.

    Create it before the files are read, so that it notices changes after that. `is_read` states whether the caller
    reads changed files at once; otherwise the next start or reload does. One of several workers `logs` missing files.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        clock: Callable[[], float] = time.monotonic,
        *,
        is_read: bool = True,
        logs: bool = True,
    ) -> None:
        self.paths = paths
        self._clock = clock
        self._is_read = is_read
        self._logs = logs
        self._due = clock() + EVERY
        self._known = self._look()
        self._seen = self._known
        self._missing: set[Path] = set()

    def changed(self) -> bool:
        """Return whether a file has changed since the last time this was True, or since the start. Cheap enough for
        frequent calls."""
        now = self._clock()
        if now < self._due:
            return False
        self._due = now + EVERY
        before, self._seen = self._seen, self._look()
        if self._seen != before:
            return False
        self._log_missing()
        if self._seen == self._known or any(state.error for state in self._seen):
            return False
        self._known = self._seen
        return True

    def _look(self) -> list[_State]:
        return [_state(path) for path in self.paths]

    def _log_missing(self) -> None:
        for path, known, state in zip(self.paths, self._known, self._seen, strict=True):
            if state.error and path not in self._missing:
                self._missing.add(path)
                message = f"{path} {_reason(state.error)}: the gateway continues with its last content"
                self._log(f"{message}; put the file back, because the next start or reload needs it")
            elif not state.error and path in self._missing:
                self._missing.remove(path)
                if state == known:
                    self._log(f"{path} is back and has not changed")
                else:
                    reads = "it is read now" if self._is_read else "the next start or reload reads it"
                    self._log(f"{path} is back and has changed: {reads}")

    def _log(self, message: str) -> None:
        if self._logs:
            event("files", message)


class WatchedFile(FileWatch):
    """Loads a configuration with `load`, and reports when the file has changed."""

    def __init__(
        self, path: Path, load: Callable[[], Configuration], clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__([path], clock)
        self._load = load

    def __call__(self) -> Configuration:
        return self._load()


def files_read_at_start(settings: Settings) -> list[Path]:
    """The files that only a start or a reload reads: `${file:PATH}`, those of TLS to upstreams, the created key."""
    clients = (upstream.tls for upstream in settings.upstreams.values())
    named = {name for tls in clients for name in (tls.ca, tls.client_cert, tls.client_key) if name is not None}
    created = None if settings.tokens.keys else made_key_path(settings)
    files = settings.places.files | {Path(name) for name in named} | ({created} if created is not None else set())
    return sorted(files)


def _state(path: Path) -> _State:
    try:
        found = path.stat()  # follows symbolic links
    except OSError as error:
        return _State(error.errno or errno.EIO)
    return _State(0, found.st_dev, found.st_ino, found.st_mode, found.st_mtime_ns, found.st_size)


def _reason(error: int) -> str:
    return "is missing" if error in (errno.ENOENT, errno.ENOTDIR) else f"cannot be read ({errno.errorcode[error]})"
