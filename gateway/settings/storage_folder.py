"""The directory of an SQLite database, which must exist before start-up."""

from pathlib import Path
from typing import Final

from gateway.errors import Problem
from gateway.settings.checks import is_in_memory
from gateway.settings.model import Settings
from gateway.settings.reader import quoted

_KEY: Final = "storage.database"


def missing_folder(settings: Settings) -> tuple[Problem, ...]:
    """The problem of a database file in a missing directory."""
    address = settings.storage.database.reveal()
    if not address.startswith("sqlite") or is_in_memory(address):
        return ()
    folder = Path(address.partition("://")[2].removeprefix("/").partition("?")[0]).absolute().parent
    if folder.is_dir():
        return ()
    wrong = "is below a file" if folder.exists() else "is in a folder that does not exist"
    message = f"{wrong}, found {quoted(address)} (mkdir -p {folder}, or another path)"
    return (Problem(*settings.position_of(_KEY), _KEY, message),)
