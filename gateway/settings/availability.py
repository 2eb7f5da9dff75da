"""Keys whose behaviour comes with a later version. They are read and checked like all others, and then refused.

A key that were read and not obeyed would be worse than one that is unknown: a rate limit that does not limit. When a
behaviour arrives, its row is taken out. There is none at present.
"""

from collections.abc import Callable, Iterator
from operator import attrgetter
from typing import Any, Final

from gateway.errors import Problem
from gateway.settings.model import RouteSettings, Settings

# Key, whether its value asks for what is not there, and what the one who wrote it reads.
Row = tuple[str, Callable[[Any], bool], str]

_GLOBAL: Final[tuple[Row, ...]] = ()
_ROUTE: Final[tuple[Row, ...]] = ()


def not_available(settings: Settings) -> tuple[Problem, ...]:
    """What the settings ask for and this version does not do, in the order of the file."""
    found = [*_asked(settings, _GLOBAL, "")]
    for route in settings.routes:
        found += _asked(route, _ROUTE, f"{route.key}.")
    return tuple(sorted(Problem(*settings.position_of(key), key, message, "not-available") for key, message in found))


def described() -> Iterator[str]:
    """Each row, as the documentation lists it."""
    for prefix, rows in (("", _GLOBAL), ("routes[].", _ROUTE)):
        for key, _, message in rows:
            yield f"`{prefix}{key}`: {message}"


def _asked(section: Settings | RouteSettings, rows: tuple[Row, ...], path: str) -> Iterator[tuple[str, str]]:
    for key, asks_for_it, message in rows:
        if asks_for_it(attrgetter(key)(section)):
            yield f"{path}{key}", message
