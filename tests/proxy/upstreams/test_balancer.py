"""Choosing among targets, as values: turns, load, outages, and slow start."""

from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.proxy.balancer import Balancer, HashBalancer
from gateway.proxy.health import SLOW_START, TargetHealth, UpstreamHealth
from gateway.settings.model import EjectSettings, HealthSettings

OUT = EjectSettings(failures=1, for_=10.0)
CHECKS = HealthSettings(path="/", interval=5.0, timeout=1.0, fall=3, rise=2)
POLICIES = ("round_robin", "least_requests")


@dataclass(eq=False)
class FakeTarget:
    """A target: `load` is set by tests."""

    name: str
    health: TargetHealth
    load: int = 0


def places(count: int, checks: HealthSettings | None = None) -> list[FakeTarget]:
    return list(map(FakeTarget, "abcdefgh", UpstreamHealth(count, checks, OUT).targets))


def take_down(target: FakeTarget) -> None:
    """Let the health checks of a target fail."""
    for _ in range(CHECKS.fall):
        target.health.checked(healthy=False, now=0.0)


def chosen(balancer: "Balancer[FakeTarget]", times: int, now: float = 0.0) -> "Counter[str]":
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
    """Not only to the target after it."""
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
def test_no_target_is_chosen_when_the_checks_of_all_fail(count: int, policy: str) -> None:
    targets = places(count, CHECKS)
    balancer = Balancer(targets, policy)  # type: ignore[arg-type]
    for one in targets:
        take_down(one)
    assert balancer.choose(0.0) is None
    assert balancer.wait(0.0) == CHECKS.rise * CHECKS.interval


@pytest.mark.parametrize("policy", POLICIES)
def test_a_target_where_a_request_failed_is_chosen_again_only_if_no_other_is_usable(policy: str) -> None:
    targets = places(2, CHECKS)
    balancer = Balancer(targets, policy)  # type: ignore[arg-type]
    assert {balancer.choose(0.0, avoid=targets[0]) for _ in range(10)} == {targets[1]}
    take_down(targets[1])
    assert balancer.choose(0.0, avoid=targets[0]) is targets[0]
    take_down(targets[0])
    assert balancer.choose(0.0, avoid=targets[0]) is None


# ---- the limits of ejection


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("count", [1, 2, 3, 4, 7])
def test_the_last_usable_target_is_not_ejected(count: int, policy: str) -> None:
    targets = places(count)
    ejected = [one.health.failed(0.0) for one in targets]
    assert ejected == [True] * (count - 1) + [False]
    assert not targets[-1].health.failed(0.0), "however often it fails"
    assert Balancer(targets, policy).choose(0.0) is not None  # type: ignore[arg-type]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(("count", "ejected", "panic"), [(2, 1, False), (3, 1, False), (3, 2, True), (4, 2, False),
                                                         (4, 3, True), (5, 2, False), (5, 3, True)])  # fmt: skip
def test_all_targets_are_used_while_fewer_than_half_are_usable(
    count: int, ejected: int, panic: bool, policy: str
) -> None:
    targets = places(count)
    for one in targets[:ejected]:
        assert one.health.failed(0.0)
    used = set(targets) if panic else set(targets[ejected:])
    shares = chosen(Balancer(targets, policy), 60 * count)  # type: ignore[arg-type]
    assert shares == dict.fromkeys((one.name for one in used), 60 * count // len(used))


def test_panic_ends_when_half_of_the_targets_are_usable_again() -> None:
    targets = places(4)
    for number, one in enumerate(targets[:3]):
        one.health.failed(float(number))
    assert all(one.health.usable(9.9) for one in targets)
    assert [one.health.usable(10.0) for one in targets] == [True, False, False, True]


def test_a_target_whose_checks_fail_gets_nothing_in_a_panic() -> None:
    targets = places(3, CHECKS)
    targets[0].health.failed(0.0)
    take_down(targets[1])
    assert [one.health.usable(0.0) for one in targets] == [True, False, True]


def test_a_target_without_requests_does_not_count_as_the_last_usable_one_if_its_checks_fail() -> None:
    targets = places(2, CHECKS)
    take_down(targets[0])
    assert not targets[1].health.failed(0.0)
    assert targets[1].health.usable(0.0)


def test_a_passed_check_ends_the_panic_with_the_ejection() -> None:
    targets = places(3, CHECKS)
    for one in targets[:2]:
        one.health.failed(0.0)
    targets[0].health.checked(healthy=True, now=1.0)
    assert [one.health.usable(1.0) for one in targets] == [True, False, True]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("count", [2, 3])
def test_a_returned_target_starts_slowly_and_then_gets_its_full_share(count: int, policy: str) -> None:
    """It is the least busy target, and must not receive all requests at once."""
    targets = places(count)
    targets[1].health.failed(0.0)
    balancer = Balancer(targets, policy)  # type: ignore[arg-type]
    fair = 1 / count
    shares = [chosen(balancer, 1200, now=10.0 + part * SLOW_START)["b"] / 1200 for part in (0.0, 0.5, 1.0)]
    assert 0.02 < shares[0] < 0.15
    assert shares[0] < shares[1] < fair
    assert shares[2] == pytest.approx(fair, abs=0.01)


@pytest.mark.parametrize("policy", POLICIES)
def test_no_request_is_refused_when_all_targets_have_just_come_back(policy: str) -> None:
    targets = places(3, CHECKS)
    for one in targets:
        take_down(one)
        for _ in range(CHECKS.rise):
            one.health.checked(healthy=True, now=10.0)
    shares = chosen(Balancer(targets, policy), 300, now=10.0)  # type: ignore[arg-type]
    assert sum(shares.values()) == 300
    assert min(shares.values()) > 60


@given(
    policy=st.sampled_from(POLICIES),
    loads=st.lists(st.integers(0, 5), min_size=1, max_size=6),
    out=st.sets(st.integers(0, 5)),
    avoided=st.none() | st.integers(0, 5),
)
def test_every_chosen_target_is_healthy(policy: str, loads: list[int], out: set[int], avoided: int | None) -> None:
    targets = places(len(loads), CHECKS)
    for number, load in enumerate(loads):
        targets[number].load = load
        if number in out:
            take_down(targets[number])
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


# ---- by a hash

KEYS = [b"key-%d" % number for number in range(2000)]
NAMES = [f"http://10.0.0.{number}:8000" for number in range(8)]


def homes(balancer: "Balancer[FakeTarget]", keys: list[bytes] = KEYS) -> list[str]:
    """The names of the targets of some keys."""
    found = [balancer.choose(0.0, None, key) for key in keys]
    return [one.name for one in found if one is not None]


def hashing(targets: list[FakeTarget]) -> "HashBalancer[FakeTarget]":
    return HashBalancer(targets, [NAMES["abcdefgh".index(target.name)] for target in targets])


def test_a_key_has_one_target_and_keys_are_spread_evenly() -> None:
    balancer = hashing(places(5))
    shares = Counter(homes(balancer))
    assert len(shares) == 5
    assert all(320 < share < 480 for share in shares.values()), shares
    assert homes(balancer) == homes(balancer)


@given(order=st.permutations(range(6)), left=st.integers(1, 6), key=st.binary(max_size=50))
def test_a_target_that_leaves_the_file_moves_its_own_keys_only(order: list[int], left: int, key: bytes) -> None:
    before, after = places(6), places(6)
    (home,) = homes(hashing(before), [key])
    kept = [after[number] for number in order[:left]]
    (now,) = homes(hashing(kept), [key])
    assert now == home or home not in {target.name for target in kept}


@given(down=st.sets(st.integers(0, 5), max_size=5), key=st.binary(max_size=50))
def test_a_target_that_is_down_moves_its_own_keys_only_and_gets_them_back(down: set[int], key: bytes) -> None:
    targets = places(6, CHECKS)
    balancer = hashing(targets)
    (home,) = homes(balancer, [key])
    for number in down:
        take_down(targets[number])
    (now,) = homes(balancer, [key])
    assert now == home or home in {targets[number].name for number in down}
    assert now not in {targets[number].name for number in down}
    for number in down:
        for _ in range(CHECKS.rise):
            targets[number].health.checked(healthy=True, now=1.0)
    assert homes(balancer, [key]) == [home]


def test_the_keys_of_a_target_that_is_down_are_spread_over_all_others() -> None:
    targets = places(5, CHECKS)
    balancer = hashing(targets)
    before = homes(balancer)
    take_down(targets[0])
    moved = Counter(now for now, was in zip(homes(balancer), before, strict=True) if was == "a")
    assert len(moved) == 4
    assert min(moved.values()) > sum(moved.values()) / 8


def test_an_ejected_target_and_one_to_avoid_are_passed_over_by_a_hash() -> None:
    targets = places(3)
    balancer = hashing(targets)
    first = balancer.choose(0.0, None, b"key")
    assert first is not None
    second = balancer.choose(0.0, first, b"key")
    assert second is not None and second is not first
    first.health.failed(0.0)
    assert balancer.choose(0.0, None, b"key") is second
    assert balancer.choose(10.0, None, b"key") is first


def test_the_only_usable_target_is_used_again_even_if_it_is_to_be_avoided() -> None:
    targets = places(2, CHECKS)
    take_down(targets[0])
    assert hashing(targets).choose(0.0, targets[1], b"key") is targets[1]
    take_down(targets[1])
    assert hashing(targets).choose(0.0, targets[1], b"key") is None


def test_requests_without_a_key_go_by_turns() -> None:
    balancer = hashing(places(3))
    assert [one.name for one in (balancer.choose(0.0) for _ in range(6)) if one] == list("abcabc")
