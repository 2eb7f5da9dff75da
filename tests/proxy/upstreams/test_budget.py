"""The retry budget: the number of retries when every request fails."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.proxy.balancer import RetryBudget

STORM = 5000


def taken(budget: RetryBudget, requests: int) -> int:
    """The number of retries for this many requests that all fail."""
    retries = 0
    for _ in range(requests):
        budget.earn(1)
        retries += budget.take()
    return retries


@pytest.mark.parametrize("share", [0.0, 0.1, 0.2, 0.5, 1.0])
@pytest.mark.parametrize("requests", [1, 10, 25, 100, STORM])
def test_under_total_failure_retries_are_the_share_plus_20(share: float, requests: int) -> None:
    retries = taken(RetryBudget(share), requests)
    assert retries <= requests * share + 20
    assert retries >= min(requests, int(requests * share + 19))


def test_a_quiet_gateway_may_retry_at_once() -> None:
    assert taken(RetryBudget(0.2), 20) == 20


def test_the_saved_budget_is_bounded() -> None:
    budget = RetryBudget(0.2)
    budget.earn(1_000_000)
    assert taken(budget, STORM) <= 101 + 0.2 * STORM


@given(share=st.floats(0, 1), failing=st.lists(st.booleans(), max_size=600))
def test_over_a_whole_life_retries_are_at_most_the_share_plus_20(share: float, failing: list[bool]) -> None:
    budget = RetryBudget(share)
    retries = 0
    for requests, fails in enumerate(failing, 1):
        budget.earn(1)
        if fails:
            retries += budget.take()
        assert retries <= 20 + share * requests + 1e-6
