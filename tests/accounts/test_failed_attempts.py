"""Counting failed attempts in one process, as values."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.accounts.failed_attempts import Allowance, Counter, FailedAttempts, SharedCount

ALLOWANCE = Allowance(failures=3, window=60.0, ban=10.0)
ANN = Counter("{ann}", "{ann}:here", ALLOWANCE)
BOB = Counter("{bob}", "{bob}:here", ALLOWANCE)


def failures() -> FailedAttempts:
    return FailedAttempts(lifetime=70.0)


def test_the_last_failure_that_is_allowed_begins_a_ban_that_ends() -> None:
    counts = failures()
    for second in range(3):
        assert counts.wait(ANN, second) == 0
        counts.failed(ANN, second)
    assert counts.wait(ANN, 2.0) == 10.0
    assert counts.wait(BOB, 2.0) == 0
    assert counts.wait(ANN, 11.5) == 0.5
    assert counts.wait(ANN, 12.0) == 0
    counts.failed(ANN, 12.0)
    assert counts.wait(ANN, 12.0) == 0, "after a ban one begins anew"


def test_failures_are_forgotten_a_window_after_the_first() -> None:
    counts = failures()
    counts.failed(ANN, 0.0)
    counts.failed(ANN, 59.0)
    counts.failed(ANN, 60.0)
    assert counts.wait(ANN, 60.0) == 0
    counts.failed(ANN, 61.0)
    assert counts.wait(ANN, 61.0) == 0
    counts.failed(ANN, 62.0)
    assert counts.wait(ANN, 62.0) == 10.0


def test_a_success_resets_the_count() -> None:
    counts = failures()
    counts.failed(ANN, 0.0)
    counts.failed(ANN, 0.0)
    counts.forget(ANN)
    counts.failed(ANN, 1.0)
    assert counts.wait(ANN, 1.0) == 0


@given(st.lists(st.tuples(st.sampled_from([ANN, BOB]), st.floats(0, 30)), max_size=60))
def test_no_more_are_let_in_than_are_allowed_in_a_window(attempts: list[tuple[Counter, float]]) -> None:
    """If all attempts fail, at most three are allowed between the end of one ban and the next ban."""
    counts, now = failures(), 0.0
    let_in: dict[str, list[float]] = {ANN.key: [], BOB.key: []}
    for counter, pause in attempts:
        now += pause
        if counts.wait(counter, now) == 0:
            counts.failed(counter, now)
            let_in[counter.key].append(now)
    for times in let_in.values():
        for number, first in enumerate(times[:-3]):
            assert times[number + 3] - first >= ALLOWANCE.ban


def test_a_flood_of_made_up_names_is_bounded_and_pushes_out_the_oldest() -> None:
    counts = FailedAttempts(lifetime=70.0, max_counts=100)
    for _ in range(3):
        counts.failed(ANN, 0.0)
    for number in range(49):
        counts.failed(Counter("{x}", f"{{{number}}}", ALLOWANCE), 1.0)
    assert counts.wait(ANN, 1.0) > 0
    for number in range(10_000):
        counts.failed(Counter("{x}", f"{{{number}}}", ALLOWANCE), 1.0)
        assert len(counts) <= 101
    assert counts.wait(ANN, 1.0) == 0


# ---- with a store that all replicas share


def test_counts_of_the_shared_store_and_unreported_ones_add_up() -> None:
    counts = failures()
    counts.learn(ANN, SharedCount(1, 50.0), 0.0)
    counts.failed(ANN, 1.0)
    assert counts.wait(ANN, 1.0) == 0
    counts.learn(ANN, SharedCount(1, 49.0), 1.0)
    counts.failed(ANN, 2.0)
    assert counts.wait(ANN, 2.0) == 10.0


def test_each_failure_is_reported_once() -> None:
    counts = failures()
    counts.failed(ANN, 0.0)
    counts.failed(ANN, 5.0)
    report = counts.take_debt(ANN, 8.0)
    assert (report.failures, report.age) == (2, 8.0)
    assert counts.take_debt(ANN, 8.0).failures == 0
    counts.give_back(report, 9.0)
    assert counts.take_debt(ANN, 9.0).failures == 2
    counts.learn(ANN, SharedCount(2, 50.0), 9.0)
    counts.failed(ANN, 9.0)
    assert counts.take_debt(ANN, 9.0).failures == 1
    assert counts.take_debt(BOB, 9.0).failures == 0


def test_a_pardon_in_the_shared_store_is_one_here() -> None:
    counts = failures()
    for _ in range(3):
        counts.failed(ANN, 0.0)
    counts.take_debt(ANN, 1.0)
    counts.learn(ANN, SharedCount(0, 0.0, pardoned=True), 1.0)
    assert counts.wait(ANN, 1.0) == 0
    assert len(counts) == 0


def test_failures_after_a_reset_still_count() -> None:
    counts = failures()
    counts.failed(ANN, 0.0)
    counts.take_debt(ANN, 1.0)
    assert counts.take_debt(ANN, 1.0).reset is None
    counts.learn(ANN, SharedCount(1, 59.0, pardoned=True, reset=77), 2.0)  # of another replica, since then
    counts.failed(ANN, 3.0)
    report = counts.take_debt(ANN, 4.0)
    assert (report.failures, report.reset) == (1, 77)


def test_a_ban_lost_by_the_shared_store_is_reported_again_while_it_lasts() -> None:
    counts = failures()
    for _ in range(3):
        counts.failed(ANN, 0.0)
    counts.take_debt(ANN, 0.0)
    counts.learn(ANN, SharedCount(0, 0.0), 4.0)
    assert counts.wait(ANN, 4.0) == 6.0
    report = counts.take_debt(ANN, 4.0)
    assert (report.failures, report.ban) == (3, 6.0)
    counts.learn(ANN, SharedCount(3, 6.0), 4.0)
    assert counts.wait(ANN, 4.0) == 6.0
    assert counts.wait(ANN, 10.0) == 0
