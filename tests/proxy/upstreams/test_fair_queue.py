"""The queue for the connections of one target as a value: turns, shares, and requests ended in favour of others."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.proxy.fair_queue import LONGEST, FairRequestQueue
from tests.support.builds import passes_values_to_compiled_code

pytestmark = passes_values_to_compiled_code


@dataclass(eq=False)
class Client:
    """The downstream of a request. A letter represents an address."""

    letter: str
    forwarded_at: float = 0.0

    @property
    def client(self) -> str:
        return f"192.0.2.{ord(self.letter)}" if len(self.letter) == 1 else self.letter


@dataclass(eq=False)
class Request:
    """A request for the queue."""

    name: str
    downstream: Client
    deadline: float | None = None
    received: int = 0
    body_ended: bool = True
    waits_for_client: bool = True


def request(client: str, name: str = "", **values: Any) -> Request:
    return Request(name, Client(client, values.pop("forwarded_at", 0.0)), **values)


def queue_of(connections: int, held: str = "") -> "FairRequestQueue[Any, Any]":
    """A queue for this many connections; `held` has a letter for each connection in use by a client."""
    return FairRequestQueue(connections, [(number, request(client)) for number, client in enumerate(held)])


def add(queue: "FairRequestQueue[Any, Any]", clients: str) -> None:
    """Add requests of these clients, in this order."""
    for number, client in enumerate(clients):
        assert queue.add(request(client, f"{client}{number}")) is None


def served(queue: "FairRequestQueue[Any, Any]", count: int | None = None) -> str:
    """The clients of the next requests, none of which keeps its connection."""
    return "".join(queue.next().downstream.letter for _ in range(len(queue) if count is None else count))


# ---- turns


def test_the_requests_of_one_client_go_in_their_order() -> None:
    queue = queue_of(4)
    add(queue, "aaaa")
    assert [queue.next().name for _ in range(4)] == ["a0", "a1", "a2", "a3"]


def test_clients_take_turns() -> None:
    queue = queue_of(4)
    add(queue, "aaaaabbc")
    assert served(queue) == "abcabaaa"


def test_a_client_waits_for_one_request_of_each_other_at_most() -> None:
    queue = queue_of(4)
    add(queue, "a" * 1000 + "b" * 1000 + "c")
    assert served(queue, 3) == "abc"


# ---- shares


@pytest.mark.parametrize(
    ("connections", "held", "waiting", "next_one"),
    [
        (4, "aaab", "ac", "c"),
        (4, "aab", "ac", "c"),
        (4, "ab", "ac", "a"),
        (4, "aaaa", "aaa", "a"),
        (4, "aabb", "abc", "c"),
        (4, "aabb", "ab", "a"),
        (3, "aa", "ab", "b"),
        (3, "a", "ab", "b"),
        (2, "a", "ab", "b"),
        (2, "", "ab", "a"),
        (1, "", "ab", "a"),
        (1, "", "aa", "a"),
        (5, "aa", "ab", "b"),
        (256, "a" * 128, "ab", "b"),
        (256, "a" * 127, "ab", "a"),
    ],
)
def test_a_client_that_holds_half_is_passed_over_while_others_wait(
    connections: int, held: str, waiting: str, next_one: str
) -> None:
    queue = queue_of(connections, held)
    add(queue, waiting)
    assert served(queue, 1) == next_one


def test_a_client_gets_its_turn_when_it_has_given_connections_back() -> None:
    queue = queue_of(4, "aaab")
    add(queue, "aabb")
    queue.release(0)
    assert served(queue, 1) == "b"
    queue.release(1)
    assert served(queue, 1) == "a"


def test_a_connection_that_is_not_held_can_be_released() -> None:
    queue = queue_of(2, "a")
    for _ in range(3):
        queue.release(0)
    queue.release("a new connection")
    add(queue, "ab")
    assert served(queue, 1) == "a"


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("", "", True),
    ],
)
def test_clients_are_networks_of_version_6_and_addresses_of_version_4(one: str, other: str, same: bool) -> None:
    queue: FairRequestQueue[Any, Any] = FairRequestQueue(2, [(0, request(one))])
    queue.add(request(other, "other"))
    queue.add(request("198.51.100.1", "third"))
    assert queue.next().name == ("third" if same else "other")


@given(
    connections=st.integers(2, 9),
    events=st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 8)), max_size=80),
)
def test_no_client_gets_more_than_half_while_another_waits_and_none_starves(
    connections: int, events: list[tuple[str, int]]
) -> None:
    queue = queue_of(connections)
    busy: dict[int, str] = {}
    added: Counter[str] = Counter()
    begun: Counter[str] = Counter()
    holders = iter(range(10_000))

    def serve() -> None:
        waiting = {client for client in "abc" if added[client] > begun[client]}
        one = queue.next()
        client = one.downstream.letter
        held = Counter(busy.values())
        allowed = {other for other in waiting if held[other] < max(1, connections // 2)}
        assert client in (allowed or waiting)
        holder = next(holders)
        busy[holder] = client
        queue.hold(holder, one)
        begun[client] += 1

    for client, number in events:
        queue.add(request(client))
        added[client] += 1
        if len(busy) < connections:
            serve()
        elif number < len(busy):
            holder = list(busy)[number]
            del busy[holder]
            queue.release(holder)
            serve()
    while len(queue):
        if len(busy) == connections:
            holder = next(iter(busy))
            del busy[holder]
            queue.release(holder)
        serve()
    assert begun == added


# ---- leaving


def test_a_request_that_has_left_is_not_served() -> None:
    queue = queue_of(4)
    add(queue, "ab")
    gone = request("b", "gone")
    queue.add(gone)
    queue.remove(gone)
    queue.remove(gone)
    assert len(queue) == 2
    assert served(queue) == "ab"


def test_requests_whose_deadline_has_passed_are_taken_out() -> None:
    queue = queue_of(4)
    for client in "ab":
        for deadline in (1.0, 2.0, 3.0):
            queue.add(request(client, f"{client}{deadline}", deadline=deadline))
    assert sorted(one.name for one in queue.expired(2.0)) == ["a1.0", "a2.0", "b1.0", "b2.0"]
    assert (len(queue), queue.expired(2.0)) == (2, [])
    assert [queue.next().name for _ in range(2)] == ["a3.0", "b3.0"]


def test_a_full_queue_refuses_the_last_request_of_the_client_that_has_most() -> None:
    queue = queue_of(4)
    add(queue, "a" * (LONGEST - 1) + "b")
    refused = queue.add(request("c", "c"))
    assert refused is not None
    assert refused.name == f"a{LONGEST - 2}"
    newcomer = request("a", "newcomer")
    assert queue.add(newcomer) is newcomer
    assert len(queue) == LONGEST
    assert served(queue, 3) == "abc"


# ---- requests ended in favour of others


def holding(connections: int, *under_way: Request) -> "FairRequestQueue[Any, Any]":
    return FairRequestQueue(connections, enumerate(under_way))


def ended(queue: "FairRequestQueue[Any, Any]", now: float = 10.0) -> list[str]:
    """The requests to end for waiting ones with a deadline of `now`, among those that began before `now` - 1."""
    return [one.name for one in queue.to_end(now, now - 1)]


def uploads(client: str, *received: int) -> list[Request]:
    return [request(client, f"{client}-{size}", received=size, body_ended=False) for size in received]


def test_the_slowest_uploads_end_down_to_the_share_of_their_client() -> None:
    queue = holding(4, *uploads("a", 30, 10, 40, 20))
    for _ in range(5):
        queue.add(request("b", deadline=9.0))
    assert ended(queue) == ["a-10", "a-20"]


def test_as_many_end_as_requests_of_others_have_waited_for_long() -> None:
    queue = holding(8, *uploads("a", 1, 2, 3, 4, 5, 6, 7, 8))
    assert ended(queue) == []
    queue.add(request("a", deadline=9.0))
    queue.add(request("b", deadline=10.5))
    assert ended(queue) == [], "only its own has waited"
    queue.add(request("b", deadline=9.0))
    queue.add(request("c", deadline=9.0))
    assert ended(queue) == ["a-1", "a-2"]


def test_a_request_that_its_target_works_on_does_not_end() -> None:
    working = [request("a", "working", waits_for_client=False) for _ in range(4)]
    queue = holding(4, *working)
    queue.add(request("b", deadline=9.0))
    assert ended(queue) == []


def test_a_request_that_has_just_begun_does_not_end() -> None:
    queue = holding(4, *(request("a", "new", body_ended=False, forwarded_at=9.5) for _ in range(4)))
    queue.add(request("b", deadline=9.0))
    assert ended(queue) == []


def test_uploads_end_before_responses_that_their_client_does_not_read() -> None:
    unread = [request("a", f"unread-{number}") for number in range(3)]
    queue = holding(4, *unread, *uploads("a", 10**9))
    for _ in range(2):
        queue.add(request("b", deadline=9.0))
    assert ended(queue) == ["a-1000000000", "unread-0"]


@pytest.mark.parametrize("held", ["aabb", "aab", "ab", "abcd"])
def test_nothing_ends_while_no_client_holds_more_than_half(held: str) -> None:
    queue = holding(4, *(upload for client in held for upload in uploads(client, 1)))
    queue.add(request("z", deadline=9.0))
    assert ended(queue) == []
