"""The hot path of the native build stays within its budget of processor instructions."""

import pytest

import gateway
from bench.budget import callgrind
from bench.native_budget import budget_of, exceeded, key, missing_program


@pytest.mark.timeout(600)
@pytest.mark.skipif(gateway.build() != "native", reason="the source runs; make test-native runs the native build")
@pytest.mark.skipif(missing_program() is not None, reason=f"{missing_program()} is not installed")
def test_a_request_with_a_new_head_costs_as_many_processor_instructions_as_its_budget_has() -> None:
    budget = budget_of(key())
    if budget is None:
        pytest.skip(f"no budget for {key()} (python -m bench.native_budget --write)")
    assert not exceeded(callgrind("fresh"), budget), (
        "if the change is worth it, store the new budget (python -m bench.native_budget --write) and give the reason"
    )


@pytest.mark.parametrize(("count", "reported"), [(953, 0), (1050, 0), (952, 1), (1051, 1)])
def test_a_count_that_differs_by_more_than_five_percent_is_reported(count: int, reported: int) -> None:
    found = exceeded({"fresh": count}, {"fresh": 1000, "repeated": 500})
    assert len(found) == reported
    assert all(line.startswith("fresh: ") for line in found)
