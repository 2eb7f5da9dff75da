"""The bucket: never more requests than the limit, and never fewer than announced, for any clock."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.gate.leaky_buckets import Quota
from tests.support.scale import examples

# Requests and seconds: common limits, and limits at the resolution of floating point.
QUOTAS = [(1, 1.0), (3, 1.0), (100, 60.0), (7, 0.25), (1, 86400.0), (10_000, 0.001), (1_000_000_000, 3600.0)]
SOME_QUOTAS = st.builds(
    Quota,
    st.one_of(st.integers(1, 20), st.integers(1, 1_000_000_000)),
    st.one_of(st.sampled_from([0.001, 0.25, 1.0, 60.0, 86400.0]), st.floats(0.001, 1e6)),
)


def passed(quota: Quota, times: list[float]) -> list[float]:
    """The times at which a request passes, as `Buckets` counts them."""
    level, at, through = 0.0, times[0], []
    for now in times:
        with_it = quota.with_one_more(level, at, now)
        if with_it <= quota.full:
            level, at = with_it, now
            through.append(now)
    return through


@pytest.mark.parametrize(("requests", "per"), [quota for quota in QUOTAS if quota[0] <= 10_000])
def test_as_many_pass_at_once_as_the_limit_allows_and_no_more(requests: int, per: float) -> None:
    assert len(passed(Quota(requests, per), [1e6] * (requests + 50))) == requests


@pytest.mark.parametrize(("requests", "per"), QUOTAS)
@pytest.mark.parametrize("start", [0.0, 1.5, 86400.0 * 400])
def test_a_full_bucket_lets_one_more_pass_after_its_share_of_the_time_and_not_before(
    requests: int, per: float, start: float
) -> None:
    quota = Quota(requests, per)
    share = per / requests
    full = float(requests)
    assert quota.with_one_more(full, start, start) > quota.full
    assert quota.with_one_more(full, start, start + share * 1.1 + 1e-6) <= quota.full
    if share > 1e-6:  # otherwise the clock cannot distinguish the times
        assert quota.with_one_more(full, start, start + share * 0.9) > quota.full


@examples(300)
@given(
    quota=SOME_QUOTAS,
    start=st.floats(0, 1e8),
    gaps=st.lists(st.one_of(st.just(0.0), st.floats(0, 2.0)), min_size=1, max_size=200),
)
@example(quota=Quota(1, 1.0), start=1e8, gaps=[0.0, 0.999999, 0.000001, 0.0])
def test_in_any_period_at_most_the_limit_and_the_leaked_requests_pass(
    quota: Quota, start: float, gaps: list[float]
) -> None:
    times = [start]
    for gap in gaps:
        times.append(times[-1] + gap * min(quota.per, quota.per / quota.requests * 5))
    through = passed(quota, times)
    for first, begin in enumerate(through):
        for last in range(first, len(through)):
            allowed = quota.requests + (through[last] - begin) * quota.rate
            # If the clock's resolution is coarser than the interval per request, add that error.
            grain = quota.rate * 3e-8 * (last - first + 1)
            assert last - first + 1 <= allowed + 1e-5 + grain


@examples(300)
@given(quota=SOME_QUOTAS, level=st.floats(0, 1), elapsed=st.floats(-10, 1e7), at=st.floats(0, 1e8))
def test_a_bucket_only_ever_leaks_while_time_passes(quota: Quota, level: float, elapsed: float, at: float) -> None:
    before = level * quota.requests
    after = quota.with_one_more(before, at, at + elapsed) - 1.0
    assert 0.0 <= after <= before + 1e-6
    if at + elapsed <= at:
        assert after == pytest.approx(before, abs=1e-6)
    elif elapsed > quota.per * 1.001 + 1e-6:
        assert after == 0.0


@examples(300)
@given(quota=SOME_QUOTAS, level=st.floats(0, 1))
def test_the_rate_limit_fields_are_true(quota: Quota, level: float) -> None:
    """The announced number passes now, and at least one more after the announced seconds."""
    filled = quota.with_one_more(level * quota.requests, 0.0, 0.0)
    remaining, wait = quota.remaining(filled), quota.wait(filled)
    held = filled if filled <= quota.full else filled - 1.0
    assert 0 <= remaining < quota.requests or (quota.requests == 1 and remaining == 0)
    assert held + remaining <= quota.full
    assert held + remaining + 1 > quota.full or remaining == quota.requests - 1
    assert wait >= 1
    assert quota.with_one_more(held + remaining, 0.0, float(wait)) <= quota.full


@pytest.mark.parametrize(
    ("requests", "per", "level", "remaining", "wait"),
    [
        (5, 60.0, 1.0, 4, 12),
        (5, 60.0, 5.0, 0, 12),
        (5, 60.0, 6.0, 0, 12),
        (5, 60.0, 5.5, 0, 6),
        (5, 60.0, 1.5, 3, 6),
        (100, 60.0, 101.0, 0, 1),
        (1, 86400.0, 2.0, 0, 86400),
        (1, 86400.0, 1.0 + 1 / 86400, 0, 1),
        (2, 0.25, 3.0, 0, 1),
    ],
)
def test_the_remaining_count_and_the_wait(requests: int, per: float, level: float, remaining: int, wait: int) -> None:
    quota = Quota(requests, per)
    assert (quota.remaining(level), quota.wait(level)) == (remaining, wait)
