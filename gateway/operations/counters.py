"""What has been counted so far: a histogram of durations for each route, method, status and refusal code.

The hot path adds to plain lists; sums, labels and text are made when somebody scrapes. The label sets are bounded by
what the operator and the gateway wrote, never by what callers send: methods outside the standard ones are `other`,
and so are routes and codes that nobody declared.
"""

from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from gateway.errors import CODES

# Upper bounds in seconds, inclusive; the last bucket has no bound.
BOUNDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
BUCKETS: Final = len(BOUNDS) + 1

OTHER: Final = "other"
# RFC 9110 9.1 and RFC 5789.
METHODS: Final = frozenset((b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS", b"TRACE", b"CONNECT"))

CALLER_LEFT: Final = 499  # nobody received this status: it is the log's word for a caller who left before any answer

Counts = list[float]  # BUCKETS numbers of requests, then the sum of their durations in seconds


class Labels(NamedTuple):
    """What requests are told apart by. `route` and `code` are empty where there was none."""

    route: str
    method: str
    status: int
    code: str


class Counters:
    """The lists that the hot path adds to, by their labels."""

    def __init__(self, routes: Iterable[str]) -> None:
        self._routes = {"", *routes}
        self._counts: dict[Labels, Counts] = {}

    def declare(self, routes: Iterable[str]) -> None:
        """Let more route names be labels of their own. Names once known stay: their counts must not go backwards."""
        self._routes.update(routes)

    def is_declared(self, route: str, method: bytes, code: str) -> bool:
        """Whether these values are their own labels, so that they can only be finitely many."""
        return method in METHODS and route in self._routes and (not code or code in CODES)

    def counts(self, route: str, method: bytes, status: int, code: str) -> Counts:
        """The list that such a request is counted in: always the same one for the same labels."""
        labels = Labels(
            route if route in self._routes else OTHER,
            method.decode("ascii") if method in METHODS else OTHER,
            status or CALLER_LEFT,
            code if not code or code in CODES else OTHER,
        )
        counts = self._counts.get(labels)
        if counts is None:
            counts = self._counts[labels] = [0] * BUCKETS + [0.0]
        return counts

    def snapshot(self) -> Iterator[tuple[Labels, Counts]]:
        """What was counted until now, as copies. Safe to call from another thread while requests are being counted."""
        for labels, counts in list(self._counts.items()):
            yield labels, counts[:]
