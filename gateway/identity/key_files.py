"""Key files that the gateway creates beside an SQLite database.

A file is written under a temporary name with mode 0600 and then linked, so it is never visible incomplete or to others.
If several processes start at once, exactly one creates the key and all use it.
"""

import contextlib
import logging
import os
import secrets
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final

from gateway.errors import CannotStart, cannot_read

_MAX_SIZE: Final = 65536  # In bytes; a key has about 250.

log: Final = logging.getLogger("gateway.identity.keyfile")


def kept_text(path: Path, make: Callable[[], str], *, name: str, purpose: str) -> str:
    """The text of the file, which `make` provides if the file does not exist. Raises CannotStart with the remedy.

    `name` and `purpose` describe the key in messages: "the signing key", "signs tokens".
    """
    text = _read(path, purpose)
    if text is None:
        _create(path, make().encode("ascii"), name)
        text = _read(path, purpose)
        if text is None:
            raise CannotStart(f"{path}: the file was removed as soon as it was created; find the cause")
    return text


def _read(path: Path, purpose: str) -> str | None:
    """The text of the file, None if it does not exist. Mode and type are checked on the open file, so that they cannot
    change before the read."""
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise CannotStart(f"{path}: not a regular file; the key that {purpose} is expected there")
            _check_mode(path, stat.S_IMODE(status.st_mode))
            return file.read(_MAX_SIZE).decode("ascii", "replace")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CannotStart(f"{cannot_read(path, error)}; it holds the key that {purpose}") from None


def _check_mode(path: Path, mode: int) -> None:
    """Refuse a key that others can read.

    Kubernetes gives the files of a volume to the group `fsGroup` at each mount, with mode 0660; GATEWAY_KEY_MODE=group
    accepts that with a warning.
    """
    if not mode & 0o077:
        return
    if mode & 0o007 or os.environ.get("GATEWAY_KEY_MODE") != "group":
        remedy = f"run: chmod 600 {path}"
        if not mode & 0o007:
            remedy += ", or set GATEWAY_KEY_MODE=group if the volume assigns a group (fsGroup)"
        raise CannotStart(f"{path}: readable by others (mode {mode:04o}); {remedy}")
    log.warning("%s can be read by its group (mode %04o, GATEWAY_KEY_MODE=group)", path, mode)


def _remedy(folder: Path) -> str:
    if not folder.is_dir():
        return f"run: mkdir -p {folder}"
    return f"the user of the gateway must be able to write the folder {folder}"


def _create(path: Path, content: bytes, name: str) -> None:
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):  # another process was faster: its key is used
            os.link(draft, path)
    except OSError as error:
        raise CannotStart(
            f"{cannot_read(path, error)}; {name} is created there: {_remedy(path.absolute().parent)}"
        ) from None
    finally:
        with contextlib.suppress(OSError):  # not created; the error above gives the reason
            draft.unlink()
