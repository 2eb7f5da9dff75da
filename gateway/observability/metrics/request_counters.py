"""Counts of requests: histograms by route, method, status class and refusal code.

The hot path adds to plain lists; sums, labels and text are computed when scraped. The label sets are bounded by the
configuration and the gateway, never by clients: non-standard methods are `other`, and so are undeclared routes and
codes.
"""

from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from gateway.errors import CODES
from gateway.samples import BUCKETS, OTHER

# RFC 9110, section 9.1, and RFC 5789.
METHODS: Final = frozenset((b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS", b"TRACE", b"CONNECT"))

CALLER_LEFT: Final = 499  # never sent: the logged status if the client disconnected before a response
# The codes of refusals, and that of an aborted response.
_CODES: Final = frozenset((*CODES, "upstream_aborted"))

# The offsets in a list of counts: three histograms, each with its buckets and then its sum.
TOTAL: Final = 0  # from the head to the end of the response
OWN: Final = BUCKETS + 1  # until the request was forwarded, or answered by the gateway itself
UPSTREAM: Final = 2 * (BUCKETS + 1)  # from there to the head of the upstream's response
SIZE: Final = 3 * (BUCKETS + 1)

Counts = list[float]


class Labels(NamedTuple):
    """The labels of a request. `route` and `code` can be empty. `status` is the class (2xx), or 499 for a client that
    disconnected before a response."""

    route: str
    method: str
    status: str
    code: str


class Counters:
    """The lists of counts by their labels."""

    def __init__(self, routes: Iterable[str]) -> None:
        self._latest = frozenset(routes)
        self._routes = {"", *self._latest}
        self._counts: dict[Labels, Counts] = {}

    def declare(self, routes: Iterable[str]) -> None:
        """Accept the route names of a new configuration as labels.

        Names with counts stay, because counters must not decrease. Those of the previous configuration stay, because
        requests to them can still be in progress.
        """
        before, self._latest = self._latest, frozenset(routes)
        self._routes = {"", *before, *self._latest, *(labels.route for labels in self._counts)}

    def is_declared(self, route: str, method: bytes, code: str) -> bool:
        """Whether all values are labels of their own, and therefore finitely many."""
        return method in METHODS and route in self._routes and (not code or code in _CODES)

    def counts(self, route: str, method: bytes, status: int, code: str) -> Counts:
        """The list of counts for a request. The same labels always return the same list."""
        labels = Labels(
            route if route in self._routes else OTHER,
            method.decode("ascii") if method in METHODS else OTHER,
            _class_of(status),
            code if not code or code in _CODES else OTHER,
        )
        counts = self._counts.get(labels)
        if counts is None:
            counts = self._counts[labels] = [0] * SIZE
        return counts

    def snapshot(self) -> Iterator[tuple[Labels, Counts]]:
        """Copies of all counts. Safe in another thread while requests are counted."""
        for labels, counts in list(self._counts.items()):
            yield labels, counts[:]


def _class_of(status: int) -> str:
    if status in (0, CALLER_LEFT):
        return str(CALLER_LEFT)
    return f"{status // 100}xx" if 100 <= status < 600 else OTHER
