"""The figures of the soak test show growth and slower requests, and ignore noise."""

import pytest

from tests.soak.figures import Sample, cost, growth, halves, percentile_99, usual_p99, warm


def sample(at: int, *, memory: float = 80.0, p99: float | None = 10.0, cpu: float = 0.0) -> Sample:
    return Sample(float(at), memory, descriptors=20, tasks=10, p99=p99, cpu=cpu, good=at * 100)


def test_growth_is_that_of_the_whole_time_and_ignores_single_peaks() -> None:
    steady = [sample(at, memory=80 + at % 2) for at in range(100)]
    leaking = [sample(at, memory=80 + at / 4 + at % 2) for at in range(100)]
    peak = [sample(at, memory=120 if at == 50 else 80) for at in range(100)]
    assert growth(steady, lambda one: one.memory) == pytest.approx(0, abs=0.1)
    assert growth(leaking, lambda one: one.memory) == pytest.approx(99 / 4, abs=0.1)
    assert growth(peak, lambda one: one.memory) == pytest.approx(0, abs=0.1)


def test_the_first_quarter_does_not_count() -> None:
    assert [one.at for one in warm([sample(at) for at in range(8)])] == [2, 3, 4, 5, 6, 7]


def test_requests_that_cost_more_later_show_in_the_second_half() -> None:
    def spent(at: int) -> float:
        return at * 0.1 + max(0, at - 50) * 0.2

    samples = [sample(at, cpu=spent(at)) for at in range(101)]
    assert list(halves(samples, cost)) == pytest.approx([1.0, 3.0])


def test_requests_that_wait_longer_later_show_in_the_second_half() -> None:
    samples = [sample(at, p99=None if at % 10 == 0 else 10.0 if at < 50 else 40.0) for at in range(100)]
    assert halves(samples, usual_p99) == (10.0, 40.0)


@pytest.mark.parametrize(("seconds", "expected"), [([], None), ([0.5], 500), ([0.001] * 99 + [0.2], 200)])
def test_p99_is_in_milliseconds(seconds: list[float], expected: float | None) -> None:
    assert percentile_99(seconds) == expected
