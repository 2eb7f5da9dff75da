"""What has been counted of requests so far: histograms for each route, method, class of status and refusal code.

The hot path adds to plain lists; sums, labels and text are made when somebody scrapes. The label sets are bounded by
what the operator and the gateway wrote, never by what callers send: methods outside the standard ones are `other`,
and so are routes and codes that nobody declared.
"""

from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from gateway.errors import CODES
from gateway.samples import BUCKETS, OTHER

# RFC 9110 9.1 and RFC 5789.
METHODS: Final = frozenset((b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS", b"TRACE", b"CONNECT"))

CALLER_LEFT: Final = 499  # nobody received this status: it is the log's word for a caller who left before any answer
# The codes of refusals, and what becomes of an answer that breaks off.
_CODES: Final = frozenset((*CODES, "upstream_aborted"))

# Where what lies in a list of counts: three histograms, each of them its buckets and then its sum.
TOTAL: Final = 0  # from the head to the end of the answer
OWN: Final = BUCKETS + 1  # until the request was sent on, or answered by the gateway itself
UPSTREAM: Final = 2 * (BUCKETS + 1)  # from there to the head of the upstream's answer
SIZE: Final = 3 * (BUCKETS + 1)

Counts = list[float]


class Labels(NamedTuple):
    """What requests are told apart by. `route` and `code` are empty where there was none. `status` is the class (2xx),
    or 499 for a caller who left before any answer."""

    route: str
    method: str
    status: str
    code: str


class Counters:
    """The lists that the hot path adds to, by their labels."""

    def __init__(self, routes: Iterable[str]) -> None:
        self._latest = frozenset(routes)
        self._routes = {"", *self._latest}
        self._counts: dict[Labels, Counts] = {}

    def declare(self, routes: Iterable[str]) -> None:
        """Let these route names, of a new configuration, be labels of their own.

        Names with counts stay, because counts must not go backwards. Those of the configuration before stay, because
        their requests can still be under way.
        """
        before, self._latest = self._latest, frozenset(routes)
        self._routes = {"", *before, *self._latest, *(labels.route for labels in self._counts)}

    def is_declared(self, route: str, method: bytes, code: str) -> bool:
        """Whether these values are their own labels, so that they can only be finitely many."""
        return method in METHODS and route in self._routes and (not code or code in _CODES)

    def counts(self, route: str, method: bytes, status: int, code: str) -> Counts:
        """The list that such a request is counted in: always the same one for the same labels."""
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
        """What was counted until now, as copies. Safe to call from another thread while requests are being counted."""
        for labels, counts in list(self._counts.items()):
            yield labels, counts[:]


def _class_of(status: int) -> str:
    if status in (0, CALLER_LEFT):
        return str(CALLER_LEFT)
    return f"{status // 100}xx" if 100 <= status < 600 else OTHER
