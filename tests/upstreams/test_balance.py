"""Choosing among targets, as values: whose turn it is, who is busy, who is out, and who has just come back."""

from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.proxy.balance import Balancer
from gateway.proxy.health import SLOW_RETURN, TargetHealth
from gateway.settings.model import EjectSettings

OUT = EjectSettings(failures=1, for_=10.0)
POLICIES = ("round_robin", "least_requests")


@dataclass(eq=False)
class Place:
    """A target: `load` is set by tests."""

    name: str
    load: int = 0
    health: TargetHealth = field(default_factory=lambda: TargetHealth(None, OUT))


def places(count: int) -> list[Place]:
    return [Place("abcdefgh"[number]) for number in range(count)]


def chosen(balancer: "Balancer[Place]", times: int, now: float = 0.0) -> "Counter[str]":
    names = (one.name for one in (balancer.choose(now) for _ in range(times)) if one is not None)
    return Counter(names)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_targets_that_are_alike_get_alike(count: int, policy: str) -> None:
    balancer = Balancer(places(count), policy)  # type: ignore[arg-type]
    assert set(chosen(balancer, 60 * count).values()) == {60}


def test_round_robin_goes_by_turns() -> None:
    balancer = Balancer(places(3), "round_robin")
    assert [one.name for one in (balancer.choose(0.0) for _ in range(7)) if one] == list("abcabca")


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("out", ["a", "b", "c"])
def test_the_share_of_a_target_that_is_out_goes_to_all_others_alike(out: str, policy: str) -> None:
    """And not to whoever comes after it."""
    targets = places(3)
    next(one for one in targets if one.name == out).health.failed(0.0)
    shares = chosen(Balancer(targets, policy), 300)  # type: ignore[arg-type]
    assert shares == dict.fromkeys(set("abc") - {out}, 150)


def test_least_requests_goes_where_least_is_under_way() -> None:
    targets = places(3)
    balancer = Balancer(targets, "least_requests")
    for one in targets:
        one.load = 5
    targets[2].load = 4
    assert chosen(balancer, 10) == {"c": 10}


def test_least_requests_fills_up_evenly() -> None:
    targets = places(3)
    balancer = Balancer(targets, "least_requests")
    targets[0].load = 30
    for _ in range(60):
        one = balancer.choose(0.0)
        assert one is not None
        one.load += 1
    assert [one.load for one in targets] == [30, 30, 30]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("count", [1, 3])
def test_with_all_targets_out_there_is_none(count: int, policy: str) -> None:
    targets = places(count)
    balancer = Balancer(targets, policy)  # type: ignore[arg-type]
    for number, one in enumerate(targets):
        one.health.failed(float(number))
    now = float(count - 1)
    assert balancer.choose(now) is None
    assert balancer.wait(now) == 10.0 - now
    assert balancer.choose(10.0) is targets[0]


@pytest.mark.parametrize("policy", POLICIES)
def test_where_a_request_failed_it_goes_only_if_there_is_no_other(policy: str) -> None:
    targets = places(2)
    balancer = Balancer(targets, policy)  # type: ignore[arg-type]
    assert {balancer.choose(0.0, avoid=targets[0]) for _ in range(10)} == {targets[1]}
    targets[1].health.failed(0.0)
    assert balancer.choose(0.0, avoid=targets[0]) is targets[0]
    targets[0].health.failed(0.0)
    assert balancer.choose(0.0, avoid=targets[0]) is None


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("count", [2, 3])
def test_what_has_just_come_back_gets_little_at_first_and_then_its_full_share(count: int, policy: str) -> None:
    """The least busy of all, which it is, must not be run over by what all others do not get."""
    targets = places(count)
    targets[1].health.failed(0.0)
    balancer = Balancer(targets, policy)  # type: ignore[arg-type]
    fair = 1 / count
    shares = [chosen(balancer, 1200, now=10.0 + part * SLOW_RETURN)["b"] / 1200 for part in (0.0, 0.5, 1.0)]
    assert 0.02 < shares[0] < 0.15
    assert shares[0] < shares[1] < fair
    assert shares[2] == pytest.approx(fair, abs=0.01)


@pytest.mark.parametrize("policy", POLICIES)
def test_when_all_have_just_come_back_nobody_is_turned_away(policy: str) -> None:
    targets = places(3)
    for one in targets:
        one.health.failed(0.0)
    shares = chosen(Balancer(targets, policy), 300, now=10.0)  # type: ignore[arg-type]
    assert sum(shares.values()) == 300
    assert min(shares.values()) > 60


@given(
    policy=st.sampled_from(POLICIES),
    loads=st.lists(st.integers(0, 5), min_size=1, max_size=6),
    out=st.sets(st.integers(0, 5)),
    avoided=st.none() | st.integers(0, 5),
)
def test_whatever_is_chosen_is_well(policy: str, loads: list[int], out: set[int], avoided: int | None) -> None:
    targets = [Place(str(number), load) for number, load in enumerate(loads)]
    for number in out:
        if number < len(targets):
            targets[number].health.failed(0.0)
    avoid = targets[avoided] if avoided is not None and avoided < len(targets) else None
    well = [one for one in targets if one.health.usable(0.0)]
    balancer = Balancer(targets, policy)  # type: ignore[arg-type]
    for _ in range(len(targets) + 1):
        one = balancer.choose(0.0, avoid=avoid)
        if not well:
            assert one is None
            continue
        assert one in well
        assert one is not avoid or well == [avoid]
        if policy == "least_requests":
            assert one.load == min(other.load for other in (set(well) - {avoid} or set(well)))
