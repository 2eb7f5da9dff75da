"""The hot path stays within its budget of bytecode instructions, which are the same on every machine."""

import copy
import sys

import pytest

import gateway
from bench.budget import WARM, budget_of, centre_of, exceeded, instructions, measure, shown, version
from bench.stage import staged
from gateway.gate import leaky_buckets
from tests.memory.garbage import unsearched

PLAYED = 100
counts_bytecode = pytest.mark.skipif(gateway.build() == "native", reason="compiled modules have no bytecode")


@counts_bytecode
async def test_a_request_costs_no_more_than_its_budget() -> None:
    budget = budget_of(version())
    if budget is None or sys.gettrace() is not None:
        pytest.skip(
            f"no budget for Python {version()} (python -m bench.budget --write), or a tracer is at work already"
        )
    costs = await measure()
    assert not exceeded(costs, budget), (
        "the hot path has become dearer; if that is worth it, write down the new budget "
        "(python -m bench.budget --write) and say in the commit what it buys\n" + shown(costs, budget)
    )


@pytest.mark.parametrize("access_log", ['"off"', "json"])
async def test_a_request_leaves_no_garbage_that_has_to_be_searched_for(access_log: str) -> None:
    """Only the garbage collector frees reference cycles, and clients wait for it."""
    async with staged(access_log) as stage:
        for name, play in stage.scenarios().items():
            for _ in range(WARM):
                play()
            with unsearched() as found:
                for _ in range(PLAYED):
                    play()
            assert not found.objects, name


def test_a_scenario_over_its_budget_is_named() -> None:
    budget = {"repeated": {"gate": 500, "total": 2000}}
    costs = copy.deepcopy(budget)
    assert exceeded(costs, budget) == []
    costs["repeated"]["gate"] = 526
    assert exceeded(costs, budget) == ["repeated, gate: 526 bytecode instructions, where the budget has 500"]
    costs["repeated"]["gate"] = 525
    assert exceeded(costs, budget) == []
    assert exceeded({"repeated": {"observe": 100}}, budget) == [
        "repeated, observe: 100 bytecode instructions, where the budget has 0"
    ]


@counts_bytecode
def test_only_the_instructions_of_the_package_count() -> None:
    assert instructions(lambda: sorted([3, 1, 2], key=lambda number: -number)).total() == 0
    counted = instructions(lambda: leaky_buckets.Quota(5, 60.0).remaining(1.0))
    assert set(counted) == {"gate"}
    assert counted == instructions(lambda: leaky_buckets.Quota(5, 60.0).remaining(1.0))
    assert centre_of(leaky_buckets.__file__) == "gate"
