"""The health of a target as a value: ejection, checks, and slow start, with a manual clock."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.proxy.health import SLOW_START, TargetHealth, UpstreamHealth
from gateway.settings.model import EjectSettings, HealthSettings

EJECT = EjectSettings(failures=3, for_=10.0)
CHECKS = HealthSettings(path="/healthz", interval=5.0, timeout=1.0, fall=3, rise=2)


def one_of_two(checks: HealthSettings | None, eject: EjectSettings | None) -> TargetHealth:
    """The health of a target beside an available one."""
    return UpstreamHealth(2, checks, eject).targets[0]


def fail(health: TargetHealth, times: int, now: float = 0.0) -> list[bool]:
    return [health.failed(now) for _ in range(times)]


def check(health: TargetHealth, outcomes: str, now: float = 0.0) -> list[bool]:
    """Record checks that pass (+) or fail (-); returns which of them changed the state."""
    return [health.checked(healthy=one == "+", now=now) for one in outcomes]


# ---- passive


def test_so_many_failures_in_a_row_eject() -> None:
    health = one_of_two(None, EJECT)
    assert fail(health, 3) == [False, False, True]
    assert not health.usable(0.0)


def test_a_success_resets_the_row_of_failures() -> None:
    health = one_of_two(None, EJECT)
    for _ in range(10):
        assert fail(health, 2) == [False, False]
        health.succeeded()
    assert health.usable(0.0)


def test_it_is_back_after_the_time() -> None:
    health = one_of_two(None, EJECT)
    fail(health, 3, now=100.0)
    assert not health.usable(109.99)
    assert health.usable(110.0)


def test_failures_of_requests_from_before_the_ejection_do_not_extend_it() -> None:
    health = one_of_two(None, EJECT)
    fail(health, 3, now=100.0)
    assert not any(fail(health, 50, now=109.0))
    assert health.usable(110.0)


def test_one_failure_ejects_a_returned_target() -> None:
    health = one_of_two(None, EJECT)
    fail(health, 3)
    assert fail(health, 1, now=10.0) == [True]
    assert not health.usable(19.9)
    assert health.usable(20.0)


def test_a_target_that_has_answered_since_its_return_is_judged_as_before() -> None:
    health = one_of_two(None, EJECT)
    fail(health, 3)
    health.succeeded()
    assert fail(health, 3, now=11.0) == [False, False, True]


def test_without_ejection_nothing_ejects() -> None:
    health = one_of_two(None, None)
    assert not any(fail(health, 1000))
    assert health.usable(0.0)


# ---- active


def test_fall_failures_in_a_row_take_it_out_and_rise_successes_bring_it_back() -> None:
    health = one_of_two(CHECKS, None)
    assert check(health, "--+--") == [False] * 5
    assert health.usable(0.0)
    assert check(health, "-") == [True]
    assert not health.usable(1e9)
    assert check(health, "+-+") == [False] * 3
    assert not health.usable(0.0)
    assert check(health, "+") == [True]
    assert health.usable(0.0)


def test_a_check_that_brings_it_back_ends_an_ejection_too() -> None:
    health = one_of_two(CHECKS, EJECT)
    check(health, "---")
    fail(health, 3, now=1.0)
    check(health, "++", now=2.0)
    assert health.usable(2.0)
    assert fail(health, 2, now=2.0) == [False, False]


def test_a_passed_check_ends_an_ejection_and_slow_start_follows() -> None:
    health = one_of_two(CHECKS, EJECT)
    fail(health, 3)
    assert check(health, "+", now=2.0) == [True]
    assert health.usable(2.0)
    assert share_taken(health, 2.0) == pytest.approx(0.1, abs=0.01)
    assert share_taken(health, 2.0 + SLOW_START) == 1.0


def test_after_an_ejection_that_a_check_has_ended_it_takes_a_full_row_to_eject_again() -> None:
    health = one_of_two(CHECKS, EJECT)
    fail(health, 3)
    check(health, "+", now=2.0)
    assert fail(health, 3, now=2.0) == [False, False, True]


def test_a_passed_check_without_an_ejection_changes_nothing() -> None:
    health = one_of_two(CHECKS, EJECT)
    assert check(health, "+++") == [False] * 3
    fail(health, 2)
    check(health, "+")
    assert fail(health, 1) == [True], "the failures of requests still count"


def test_a_failed_check_does_not_end_an_ejection() -> None:
    health = one_of_two(CHECKS, EJECT)
    fail(health, 3)
    assert check(health, "--", now=1.0) == [False, False]
    assert not health.usable(1.0)


@given(outcomes=st.text("+-", max_size=60), fall=st.integers(1, 5), rise=st.integers(1, 5))
def test_it_changes_after_a_full_row_and_only_then(outcomes: str, fall: int, rise: int) -> None:
    health = one_of_two(HealthSettings(path="/", interval=1.0, timeout=1.0, fall=fall, rise=rise), None)
    up, row = True, ""
    for one in outcomes:
        row = row + one if one == "-+"[not up] else ""
        changes = len(row) == (fall if up else rise)
        if changes:
            up, row = not up, ""
        assert check(health, one) == [changes]
        assert health.usable(0.0) == up


# ---- duration


@pytest.mark.parametrize(("now", "wait"), [(0.0, 10.0), (4.0, 6.0), (10.0, 0.0), (99.0, 0.0)])
def test_the_wait_for_an_ejected_target_is_known(now: float, wait: float) -> None:
    health = one_of_two(None, EJECT)
    fail(health, 3)
    assert health.wait(now) == wait


def test_the_wait_for_one_whose_checks_fail_is_that_of_the_checks_to_come() -> None:
    health = one_of_two(CHECKS, None)
    assert health.wait(0.0) == 0.0
    check(health, "---")
    assert health.wait(0.0) == 10.0
    check(health, "+")
    assert health.wait(0.0) == 5.0


# ---- slow start


def share_taken(health: TargetHealth, now: float, turns: int = 1000) -> float:
    return sum(health.in_rotation(now) for _ in range(turns)) / turns


def test_a_target_that_was_never_ejected_takes_every_turn() -> None:
    health = one_of_two(CHECKS, EJECT)
    assert share_taken(health, 0.0) == 1.0


def test_after_an_ejection_it_takes_more_and_more_turns() -> None:
    health = one_of_two(None, EJECT)
    fail(health, 3)
    back = 10.0
    assert share_taken(health, back) == pytest.approx(0.1, abs=0.01)
    assert share_taken(health, back + SLOW_START / 2) == pytest.approx(0.5, abs=0.01)
    assert share_taken(health, back + SLOW_START) == 1.0
    assert share_taken(health, back) == 1.0, "once it is back it stays"


def test_after_failed_checks_it_takes_more_and_more_turns() -> None:
    health = one_of_two(CHECKS, None)
    check(health, "---++", now=50.0)
    assert share_taken(health, 50.0) == pytest.approx(0.1, abs=0.01)
    assert share_taken(health, 50.0 + SLOW_START) == 1.0
