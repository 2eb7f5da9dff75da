"""One bucket per client, in bounded memory."""

import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from gateway.gate.leaky_buckets import Buckets, Quota
from tests.support.scale import examples


def passes(buckets: Buckets, caller: str, now: float) -> bool:
    return buckets.take(caller, now) <= buckets.quota.full


def test_callers_do_not_share_their_buckets() -> None:
    buckets = Buckets(Quota(2, 10.0), 100)
    assert [passes(buckets, "a", 0.0) for _ in range(4)] == [True, True, False, False]
    assert [passes(buckets, "b", 0.0) for _ in range(4)] == [True, True, False, False]


def test_a_refused_request_is_not_counted() -> None:
    """Otherwise a client that keeps trying would never pass."""
    buckets = Buckets(Quota(1, 10.0), 100)
    assert passes(buckets, "a", 0.0)
    assert not any(passes(buckets, "a", second / 10) for second in range(1, 100))
    assert passes(buckets, "a", 10.0)


def test_looking_counts_nothing() -> None:
    buckets = Buckets(Quota(1, 10.0), 100)
    assert [buckets.look("a", 0.0) for _ in range(3)] == [1.0, 1.0, 1.0]
    assert passes(buckets, "a", 0.0)
    assert [buckets.look("a", 0.0) for _ in range(3)] == [2.0, 2.0, 2.0]


def test_counts_of_other_replicas_are_adopted() -> None:
    buckets = Buckets(Quota(10, 10.0), 100)
    buckets.note("a", 9.0, 5.0)
    assert [passes(buckets, "a", 5.0) for _ in range(3)] == [True, False, False]
    assert [passes(buckets, "a", 7.0) for _ in range(3)] == [True, True, False]


@examples(200)
@given(
    st.lists(
        st.tuples(st.sampled_from("abcdefgh"), st.sampled_from([0.0, 0.01, 0.3, 0.5, 1.0, 2.1])),
        min_size=1,
        max_size=300,
    )
)
def test_evicted_buckets_change_no_decision(requests: list[tuple[str, float]]) -> None:
    """While there is room, each client is treated as if it had its own permanent bucket."""
    quota = Quota(3, 1.0)
    buckets = Buckets(quota, 1000)
    alone: dict[str, tuple[float, float]] = {}
    now = 0.0
    for caller, gap in requests:
        now += gap
        level, at = alone.get(caller, (0.0, now))
        expected = quota.with_one_more(level, at, now)
        if expected <= quota.full:
            alone[caller] = (expected, now)
        assert buckets.take(caller, now) == expected


def test_a_flood_of_made_up_callers_takes_bounded_memory() -> None:
    buckets = Buckets(Quota(5, 3600.0), 10_000)
    tracemalloc.start()
    try:
        for number in range(20_000):
            buckets.take(f"@10.{number >> 16}.{number >> 8 & 255}.{number & 255}", number * 1e-4)
        before = tracemalloc.get_traced_memory()[0]
        for number in range(20_000, 60_000):
            buckets.take(f"@10.{number >> 16}.{number >> 8 & 255}.{number & 255}", number * 1e-4)
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert len(buckets) <= 10_000
    assert grown < 1_000_000, f"{grown} bytes more after 40,000 further callers"


def test_an_active_client_is_remembered_through_a_flood() -> None:
    buckets = Buckets(Quota(1, 3600.0), 1000)
    assert passes(buckets, "hasty", 0.0)
    for number in range(50_000):
        buckets.take(f"@{number}", 1.0)
        if number % 100 == 0:
            assert not passes(buckets, "hasty", 1.0)


def test_clients_that_were_idle_for_the_whole_period_are_forgotten() -> None:
    buckets = Buckets(Quota(5, 10.0), 1000)
    for number in range(400):
        buckets.take(f"@{number}", 0.0)
    buckets.take("later", 11.0)
    buckets.take("latest", 22.0)
    assert len(buckets) == 2
