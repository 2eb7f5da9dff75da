"""The queue for connections to one target, and the connections that each client holds.

Clients take turns, and each keeps the order of its own requests. A client that holds half of the connections is passed
over while others wait. Clients are distinguished by address; an IPv6 /64 is one client.

A queue exists only while requests wait, so counting costs nothing otherwise.
"""

from collections import OrderedDict
from collections.abc import Iterable
from typing import Final, Generic, TypeVar

from gateway.proxy.exchange import UpstreamExchange
from gateway.wire.addresses import Callers

LONGEST: Final = 4096  # requests

E = TypeVar("E", bound=UpstreamExchange)
H = TypeVar("H")


class FairRequestQueue(Generic[E, H]):
    """`connections` is the limit of connections. A holder is the object that holds a connection for a request."""

    def __init__(self, connections: int, holders: Iterable[tuple[H, E]]) -> None:
        self._share = max(1, connections // 2)
        self._clients = Callers()
        # The requests of each client, in the order of the clients' turns. OrderedDict, because thousands of requests
        # can leave the queue at the same time.
        self._by_client: dict[str, OrderedDict[E, None]] = {}
        self._length = 0
        self._holders: dict[H, E] = {}
        self._held: dict[str, int] = {}
        for holder, exchange in holders:
            self.hold(holder, exchange)

    def __len__(self) -> int:
        return self._length

    # ---- connections

    def hold(self, holder: H, exchange: E) -> None:
        """Count a connection of a request."""
        client = self._client(exchange)
        self._holders[holder] = exchange
        self._held[client] = self._held.get(client, 0) + 1

    def release(self, holder: H) -> None:
        """Stop counting a connection, if it was counted."""
        exchange = self._holders.pop(holder, None)
        if exchange is None:
            return
        client = self._client(exchange)
        self._held[client] -= 1
        if not self._held[client]:
            del self._held[client]

    # ---- requests

    def add(self, exchange: E) -> E | None:
        """Append a request to its client's requests. If the queue is full, return the request to refuse: the last one
        of the client with the most requests."""
        client = self._client(exchange)
        own = self._by_client.setdefault(client, OrderedDict())
        own[exchange] = None
        self._length += 1
        if self._length <= LONGEST:
            return None
        longest = max(self._by_client.values(), key=len)
        last = next(reversed(longest if len(longest) > len(own) else own))
        self.remove(last)
        return last

    def remove(self, exchange: E) -> None:
        """Remove a request, if it is in the queue."""
        client = self._client(exchange)
        requests = self._by_client.get(client)
        if requests is not None and exchange in requests:
            del requests[exchange]
            self._length -= 1
            if not requests:
                del self._by_client[client]

    def next(self) -> E:
        """Remove and return the next request. The queue must not be empty."""
        for client in self._by_client:
            if self._held.get(client, 0) < self._share:
                break
        else:
            client = next(iter(self._by_client))
        requests = self._by_client.pop(client)
        exchange, _ = requests.popitem(last=False)
        self._length -= 1
        if requests:
            self._by_client[client] = requests
        return exchange

    def expired(self, now: float) -> list[E]:
        """Remove and return the requests whose deadline has passed."""
        found = []
        for requests in self._by_client.values():
            for exchange in requests:
                if exchange.deadline is None or exchange.deadline > now:
                    break
                found.append(exchange)
        for exchange in found:
            self.remove(exchange)
        return found

    # ---- clients over their share

    def to_end(self, deadline: float, begun: float) -> list[E]:
        """Return requests in progress to end, which hold connections beyond the share of their client.

        The result has one for each request of another client with this `deadline` or an earlier one. It began at the
        time `begun` of `time.monotonic` or before. Only requests delayed by the client itself are ended: slow uploads,
        the slowest first, then responses that the client does not read, and event streams. A target never loses a
        request that it is working on.
        """
        client = max(self._held, key=self._held.__getitem__, default="")
        excess = self._held.get(client, 0) - self._share
        if excess <= 0:
            return []
        others = [requests for other, requests in self._by_client.items() if other != client]
        urgent = sum(
            each.deadline is not None and each.deadline <= deadline for requests in others for each in requests
        )
        slow = [
            each
            for each in self._holders.values()
            if each.waits_for_client and each.downstream.forwarded_at <= begun and self._client(each) == client
        ]
        slow.sort(key=lambda each: (each.body_ended, each.received / (1 + begun - each.downstream.forwarded_at)))
        return slow[: min(excess, urgent)]

    def _client(self, exchange: E) -> str:
        return self._clients.by_address(exchange.downstream.client)
