"""A lock by which a gateway without Redis detects other processes that serve from the same database.

Processes without a shared Redis do not learn of each other's logouts, and each counts failed logins alone. A process
without Redis therefore takes the lock exclusively, and a process with Redis shares it. Commands do not take it.

The lock is an `flock` on a file of its own, because closing any descriptor of the SQLite file would release SQLite's
own locks (fcntl(2), "advisory record locking"). For SQLite the file is beside the database. For PostgreSQL it is in the
temporary folder, so it detects processes of the same machine, such as the workers of an ASGI server.
"""

import asyncio
import errno
import fcntl
import hashlib
import os
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

from gateway.errors import CannotStart, cannot_read
from gateway.settings.store_files import is_in_memory, sqlite_file

_PATIENCE: Final = 2.0  # seconds, within which a process that is being replaced ends
_EVERY: Final = 0.05
_UNSUPPORTED: Final = frozenset({errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS})

_REMEDY: Final = "set storage.redis, or run one process (--workers 1, and one gateway for each database)"


async def lock_database(address: str, *, has_redis: bool, stack: AsyncExitStack) -> None:
    """Lock the database at `address` until `stack` closes.

    Raises CannotStart if another process holds the lock, or if the file beside an SQLite database cannot be created.
    File systems without locks are not checked.
    """
    path = _lock_file(address)
    if path is None:
        return
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        if not address.startswith("sqlite"):
            return  # the file belongs to another user, who uses the same database address
        raise CannotStart(f"the database cannot be locked: {cannot_read(path, error)}") from None
    stack.callback(os.close, descriptor)
    if not await _locked(descriptor, fcntl.LOCK_SH if has_redis else fcntl.LOCK_EX):
        raise CannotStart(_refusal(address, path, has_redis=has_redis))


def _lock_file(address: str) -> Path | None:
    """Return the path of the lock file; None for a database in memory, which belongs to this process."""
    if is_in_memory(address):
        return None
    database = sqlite_file(address)
    if database is not None:
        return Path(f"{os.path.realpath(database)}.lock")
    digest = hashlib.sha256(address.encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir(), f"gateway-{os.getuid()}-{digest}.lock")


async def _locked(descriptor: int, kind: int) -> bool:
    loop = asyncio.get_running_loop()
    until = loop.time() + _PATIENCE
    while True:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _UNSUPPORTED:
                return True
            if loop.time() >= until:
                return False
            await asyncio.sleep(_EVERY)
        else:
            return True


def _refusal(address: str, path: Path, *, has_redis: bool) -> str:
    where = str(path).removesuffix(".lock") if address.startswith("sqlite") else "this PostgreSQL database"
    other = "another process without storage.redis" if has_redis else "another process"
    return (
        f"{other} serves from {where}: without Redis, neither hears of the other's logouts and failed logins; {_REMEDY}"
    )
