"""The bounded cache: its limits and its order of eviction."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.cache import TwoGenerationCache


def age(cache: TwoGenerationCache[str, int]) -> None:
    """Move all young entries to the old generation: a lifetime passes before the next insertion."""
    cache.put("another", 0, 60.0)
    cache.drop("another")


def test_used_entries_stay_and_unused_ones_are_dropped() -> None:
    cache: TwoGenerationCache[str, int] = TwoGenerationCache(10, lifetime=60.0)
    cache.put("used", 1, 0.0)
    cache.put("unused", 2, 0.0)
    for number in range(100):
        cache.put(f"k{number}", number, 0.0)
        assert cache.get("used") == 1
    assert cache.get("unused") is None


def test_a_replaced_entry_is_the_new_one_in_either_generation() -> None:
    cache: TwoGenerationCache[str, int] = TwoGenerationCache(10, lifetime=60.0)
    cache.put("a", 1, 0.0)
    cache.put("a", 2, 0.0)
    assert cache.get("a") == 2
    age(cache)
    cache.put("a", 3, 0.0)
    assert cache.get("a") == 3
    assert len(cache) == 1


def test_a_dropped_entry_is_gone_from_either_generation() -> None:
    cache: TwoGenerationCache[str, int] = TwoGenerationCache(10, lifetime=60.0)
    cache.put("old", 1, 0.0)
    age(cache)
    cache.put("young", 2, 0.0)
    for key in ("old", "young", "never there"):
        cache.drop(key)
    assert len(cache) == 0


class Counted:
    """Counts its instances."""

    alive = 0

    def __init__(self) -> None:
        Counted.alive += 1

    def __del__(self) -> None:
        Counted.alive -= 1


def test_dropped_entries_are_freed_gradually_and_do_not_accumulate() -> None:
    Counted.alive = 0
    cache: TwoGenerationCache[str, Counted] = TwoGenerationCache(2000, lifetime=60.0)
    most_at_once = most = 0
    for number in range(20_000):
        before = Counted.alive
        if number % 4999 == 0:
            cache.clear()
        cache.put(str(number), Counted(), 0.0)
        most_at_once = max(most_at_once, before + 1 - Counted.alive)
        most = max(most, Counted.alive)
    assert most_at_once <= 64
    assert most <= 2000 + 1000 + 1


def test_two_turns_or_a_clearing_leave_nothing() -> None:
    cache: TwoGenerationCache[str, int] = TwoGenerationCache(10, lifetime=60.0)
    cache.put("a", 1, 0.0)
    age(cache)
    assert cache.get("a") == 1
    cache.clear()
    assert len(cache) == 0
    assert cache.get("a") is None


@given(
    st.lists(st.tuples(st.sampled_from("pdt"), st.text(max_size=20)), max_size=200),
    st.integers(1, 20),
    st.integers(1, 60),
)
def test_neither_bound_is_ever_passed(steps: list[tuple[str, str]], entries: int, length: int) -> None:
    cache: TwoGenerationCache[str, int] = TwoGenerationCache(entries, lifetime=60.0, max_key_length=length)
    for step, key in steps:
        if step == "p":
            cache.put(key, 1, 0.0)
            assert cache.get(key) == 1
        elif step == "d":
            cache.drop(key)
            assert cache.get(key) is None
        else:
            cache.get(key)
        generation = max(1, entries // 2)
        assert len(cache) <= 2 * generation
        assert len(cache.young) == 1 or sum(map(len, cache.young)) <= max(1, length // 2)
