"""The refusals in memory: their facts, and their bounds against floods and against large values."""

import sys
import time
from types import SimpleNamespace
from typing import Any, cast

from gateway.api.console.recent_refusals import PER_ROUTE, ROUTES, RecentRefusal, RecentRefusals
from gateway.errors import Refusal
from gateway.gate.admission import RequestHead


def request(
    target: bytes = b"/orders/7", *, method: bytes = b"GET", client: str = "192.0.2.1", id: bytes = b"0123456789abcdef"
) -> RequestHead:
    return cast("RequestHead", SimpleNamespace(method=method, target=target, client=client, request_id=id))


def refusal(route: str | None = "orders", *, reason: str = "needs the role editor", caller: Any = None) -> Refusal:
    refused = Refusal("forbidden", reason, route=route)
    refused.caller = caller
    return refused


def test_a_refusal_has_the_facts_of_the_decision_log() -> None:
    refusals = RecentRefusals(clock=lambda: 12.0)
    caller = SimpleNamespace(id="u-42", own_roles=frozenset(("user", "auditor")))
    refusals.note(refusal(caller=caller), request(b"/orders/7?token=secret"))
    assert refusals.of("orders") == (
        RecentRefusal(
            *(12.0, "orders", "GET", "/orders/7", 403, "forbidden", "needs the role editor"),
            *("u-42", ("auditor", "user"), "192.0.2.1", "0123456789abcdef"),
        ),
    )


def test_credentials_in_a_path_or_a_request_id_are_masked() -> None:
    token = b"eyJhbGciOiJFZERTQSJ9." + b"x" * 300 + b".c2ln"
    refusals = RecentRefusals()
    refusals.note(refusal(), request(b"/orders/" + token, id=b"gwk_" + b"k" * 60))
    (kept,) = refusals.of("orders")
    assert (kept.path, kept.request_id) == ("/orders/[secret]", "[secret]")


def test_characters_that_are_invisible_are_escaped() -> None:
    refusals = RecentRefusals()
    refusals.note(refusal(reason="a\u202eb\n"), request(b"/\x1b[2J\x7f"))
    (kept,) = refusals.of("orders")
    assert (kept.reason, kept.path) == ("a\\u202eb\\n", "/\\x1b[2J\\x7f")


def test_the_latest_of_each_route_are_kept_latest_first() -> None:
    now = 0.0
    refusals = RecentRefusals(clock=lambda: now)
    for number in range(PER_ROUTE + 5):
        now = float(number)
        refusals.note(refusal(), request(b"/orders/%d" % number))
        refusals.tick(now)
    kept = refusals.of("orders")
    assert [each.path for each in kept] == [f"/orders/{number}" for number in reversed(range(5, PER_ROUTE + 5))]
    assert refusals.latest(2) == kept[:2]


def test_a_flood_of_one_route_hides_no_refusal_of_another() -> None:
    refusals = RecentRefusals()
    for _ in range(10_000):
        refusals.note(refusal(None), request(b"/wp-login.php"))
    refusals.note(refusal("orders"), request())
    assert len(refusals.of("")) == 5
    assert refusals.full == {None}, "the faces record no more of it"
    assert len(refusals.of("orders")) == 1
    refusals.tick(0.25)
    assert refusals.full == set()
    refusals.note(refusal(None), request(b"/wp-login.php"))
    assert len(refusals.of("")) == 6


def test_the_memory_is_bounded_in_count_and_bytes() -> None:
    """A refusal of each route, with values as large as a client can make them: less than 16 MiB."""
    refusals = RecentRefusals()
    caller = SimpleNamespace(id="u" * 5000, own_roles=frozenset(f"role-{n}-{'r' * 300}" for n in range(300)))
    large = request(b"/" + b"\xff" * 60_000, method=b"M" * 5000, client="c" * 5000, id=b"i" * 5000)
    for number in range(ROUTES + 50):
        for _ in range(PER_ROUTE + 5):
            refusals.note(refusal(f"route-{number}", reason="r" * 5000, caller=caller), large)
            refusals.tick(0.0)
    kept = refusals.latest(1_000_000)
    assert len(kept) == ROUTES * PER_ROUTE
    assert refusals.of("route-0") == ()
    assert max(map(_size, kept)) * len(kept) < 16 << 20


def _size(kept: RecentRefusal) -> int:
    texts = [value for value in kept if isinstance(value, str)]
    return sys.getsizeof(kept) + sum(map(sys.getsizeof, (*texts, kept.roles, *kept.roles)))


def test_a_flood_costs_little() -> None:
    """A refusal that is not kept costs a few microseconds at most."""
    refusals = RecentRefusals()
    refused, head = refusal(), request()
    began = time.process_time()
    for _ in range(20_000):
        refusals.note(refused, head)
    assert time.process_time() - began < 1.0
