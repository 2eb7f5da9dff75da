"""The recent refusals of this process in memory, for the console.

They contain the facts of the decision log, and are kept without it too. The memory is bounded in count and bytes: 20
refusals of each of 100 routes, with truncated texts. Of a flood, each tick keeps a few refusals per route, so that a
flood costs little and hides no refusals of other routes.
"""

import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from gateway.errors import Refusal
from gateway.gate.admission import RequestHead
from gateway.observability.access_log import loggable_path
from gateway.observability.escaping import printable, without_tokens

PER_ROUTE: Final = 20
ROUTES: Final = 100
_PER_TICK: Final = 5  # of one route
_ROUTES_PER_TICK: Final = 20
_LONGEST: Final = 200  # characters of one text
_READ: Final = 1024  # characters in which credentials are masked before the text is truncated
_MOST_ROLES: Final = 20


class RecentRefusal(NamedTuple):
    """A refused request. `at` is in seconds since the epoch, `route` the name of the refusing route or "". `user` is
    the id of the refused caller, "" for an unknown one."""

    at: float
    route: str
    method: str
    path: str
    status: int
    code: str
    reason: str
    user: str
    roles: tuple[str, ...]
    client: str
    request_id: str


class RecentRefusals:
    """The recent refusals by route. `full` are the routes with enough refusals in this tick, so that a face can skip
    `note` for them. `clock` returns seconds since the epoch."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.full: set[str | None] = set()
        self._clock = clock
        self._routes: OrderedDict[str, deque[RecentRefusal]] = OrderedDict()  # the last refused route last
        self._taken: dict[str | None, int] = {}  # refusals by route in this tick

    def note(self, refusal: Refusal, request: RequestHead) -> None:
        """Record a refusal, unless this tick has recorded enough."""
        taken = self._taken.get(refusal.route, 0)
        if taken >= _PER_TICK or (not taken and len(self._taken) >= _ROUTES_PER_TICK):
            return
        self._taken[refusal.route] = taken + 1
        if taken + 1 == _PER_TICK:
            self.full.add(refusal.route)
        self._keep(_refusal_of(refusal, request, self._clock()))

    def tick(self, now: float) -> None:
        """Begin another tick. `now` is the loop's time."""
        self._taken.clear()
        self.full.clear()

    def of(self, route: str) -> tuple[RecentRefusal, ...]:
        """The recent refusals by one route, latest first."""
        return tuple(reversed(self._routes.get(route, ())))

    def latest(self, count: int) -> tuple[RecentRefusal, ...]:
        """The latest refusals of all routes, latest first."""
        return tuple(sorted(self._all(), key=lambda each: -each.at)[:count])

    def _all(self) -> Iterator[RecentRefusal]:
        for refusals in self._routes.values():
            yield from refusals

    def _keep(self, refusal: RecentRefusal) -> None:
        kept = self._routes.get(refusal.route)
        if kept is None:
            kept = self._routes[refusal.route] = deque(maxlen=PER_ROUTE)
            if len(self._routes) > ROUTES:
                self._routes.popitem(last=False)
        self._routes.move_to_end(refusal.route)
        kept.append(refusal)


def _refusal_of(refusal: Refusal, request: RequestHead, at: float) -> RecentRefusal:
    caller = refusal.caller
    return RecentRefusal(
        at,
        refusal.route or "",
        _text(request.method),
        _text(loggable_path(request.target)),
        refusal.status,
        refusal.code,
        _short(refusal.reason or refusal.detail),
        "" if caller is None else _short(caller.id),
        () if caller is None else tuple(sorted(map(_short, caller.own_roles))[:_MOST_ROLES]),
        _short(request.client),
        _text(request.request_id),
    )


def _text(value: bytes) -> str:
    return _short(value[:_READ].decode("latin-1"))


def _short(text: str) -> str:
    """A text without credentials and invisible characters, truncated."""
    return printable(without_tokens(text[:_READ]))[:_LONGEST]
