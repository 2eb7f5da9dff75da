"""Keys whose behaviour comes with a later version. They are read and checked like all others, and then refused.

A key that were read and not obeyed would be worse than one that is unknown: a rate limit that does not limit. When a
behaviour arrives, its row is taken out.
"""

from collections.abc import Callable, Iterator
from typing import Any, Final

from gateway.errors import Problem
from gateway.settings.model import RouteSettings, Settings, UpstreamSettings

# Key -> whether its value asks for what is not there.
Rows = tuple[tuple[str, Callable[[Any], bool]], ...]


def _is_set(value: Any) -> bool:
    return bool(value)


_GLOBAL: Final[Rows] = (
    ("server.operations_port", lambda port: port is not None),
    ("tokens.external", _is_set),
    ("identity.assertion", _is_set),
    ("observability.tracing", _is_set),
)
_UPSTREAM: Final[Rows] = (
    ("targets", lambda targets: len(targets) > 1),
    ("balance", lambda balance: balance == "least_requests"),
    ("health", _is_set),
    ("retries", lambda retries: retries > 1),
    ("engine", lambda engine: engine == "httpx"),
)
_ROUTE: Final[Rows] = (
    ("websocket", _is_set),
    ("rate_limit", _is_set),
    ("shadow", _is_set),
    ("cors", _is_set),
)
# Their defaults may be assumed in silence, but whoever writes them relies on them.
_NOT_TO_BE_WRITTEN: Final = ("accounts.lockout",)
_NOT_TO_BE_WRITTEN_IN_UPSTREAMS: Final = ("eject", "retry_budget")


def not_available(settings: Settings) -> tuple[Problem, ...]:
    """What the settings ask for and this version does not do, in the order of the file."""
    keys = [*_of(settings, _GLOBAL, ""), *(key for key in _NOT_TO_BE_WRITTEN if key in settings.written)]
    for name, upstream in settings.upstreams.items():
        keys += _of_upstream(f"upstreams.{name}.", upstream, settings.written)
    for route in settings.routes:
        keys += _of(route, _ROUTE, f"{route.key}.")
    return tuple(
        sorted(Problem(*settings.position_of(key), key, "is not available yet (leave it out)") for key in keys)
    )


def _of_upstream(path: str, upstream: UpstreamSettings, written: frozenset[str]) -> Iterator[str]:
    yield from _of(upstream, _UPSTREAM, path)
    yield from (f"{path}{key}" for key in _NOT_TO_BE_WRITTEN_IN_UPSTREAMS if f"{path}{key}" in written)


def _of(section: Settings | UpstreamSettings | RouteSettings, rows: Rows, path: str) -> Iterator[str]:
    for key, asks_for_it in rows:
        value: Any = section
        for name in key.split("."):
            value = getattr(value, name)
        if asks_for_it(value):
            yield f"{path}{key}"
