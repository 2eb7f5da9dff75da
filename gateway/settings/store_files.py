"""The files that the addresses of the stores name, which must be usable before start-up."""

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, quote, unquote

from gateway.errors import Problem
from gateway.settings.model import Settings
from gateway.settings.postgresql_address import files_of
from gateway.settings.reader import quoted

_KEY: Final = "storage.database"
_REDIS_KEY: Final = "storage.redis"
_REDIS_FILES: Final[tuple[str, ...]] = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")


def is_in_memory(address: str) -> bool:
    """Whether an address is that of an in-memory database."""
    scheme, _, rest = address.partition("://")
    in_file = rest.removeprefix("/").partition("?")[0] not in ("", ":memory:") and "mode=memory" not in rest
    return scheme.startswith("sqlite") and not in_file


def sqlite_file(address: str) -> Path | None:
    """The file of an SQLite address; None for PostgreSQL and for in-memory databases."""
    if not address.startswith("sqlite") or is_in_memory(address):
        return None
    return Path(unquote(address.partition("://")[2].removeprefix("/").partition("?")[0]))


def unusable_files(settings: Settings) -> tuple[Problem, ...]:
    """The problems of an SQLite file that cannot be opened or created, and of missing certificates for the stores."""
    address = settings.storage.database.reveal()
    path = sqlite_file(address)
    if path is not None:
        found = _sqlite_problems(address, path)
    else:
        found = _missing({} if is_in_memory(address) else files_of(address))
    redis = settings.storage.redis
    options = {} if redis is None else dict(parse_qsl(redis.reveal().partition("?")[2]))
    certificates = {name: options[name] for name in _REDIS_FILES if name in options}
    return (
        *(Problem(*settings.position_of(_KEY), _KEY, message) for message in found),
        *(Problem(*settings.position_of(_REDIS_KEY), _REDIS_KEY, message) for message in _missing(certificates)),
    )


def _missing(files: Mapping[str, str]) -> Iterator[str]:
    for name, file in files.items():
        if not Path(file).is_file():
            yield f"has the option '{name}' with a file that does not exist, found {quoted(file)}"


def _sqlite_problems(address: str, path: Path) -> Iterator[str]:
    # SQLite creates the target of a symbolic link, and absolute() keeps the name that the user knows.
    file = path.resolve() if path.is_symlink() else path.absolute()
    if not file.parent.is_dir():
        wrong = "is below a file" if file.parent.exists() else "is in a folder that does not exist"
        yield f"{wrong}, found {quoted(address)} (mkdir -p {file.parent}, or another path)"
    elif file.is_dir():
        yield f"is a folder, found {quoted(address)} (sqlite:///{path / 'gateway.db'})"
    elif file.exists() and not file.is_file():
        yield f"is not a regular file, found {quoted(address)} (another path)"
    elif not _is_sqlite(file):
        yield f"is a file that is not an SQLite database, found {quoted(address)} (another path)"


def _is_sqlite(file: Path) -> bool:
    """Whether the file is an SQLite database, or can be one: missing, empty, or unreadable for this user.

    SQLite itself opens the file, because a reload examines it in the process that serves from it: closing any other
    descriptor of the file would release SQLite's locks (fcntl(2), "advisory record locking"). The next command would
    then delete the write-ahead log, and later writes of the gateway would be lost.
    """
    try:
        with closing(sqlite3.connect(f"file:{quote(str(file))}?mode=ro&immutable=1", uri=True)) as connection:
            connection.execute("PRAGMA schema_version")
    except sqlite3.OperationalError:
        return True
    except sqlite3.DatabaseError:
        return False
    return True
