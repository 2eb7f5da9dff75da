"""The fuzzers find a fault, name the case that shows it, and reduce that case."""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

import pytest

from tests.fuzz.campaign import Campaign, Wrong, without_ranges


@dataclass(frozen=True)
class Bytes:
    data: bytes

    def smaller(self) -> Iterator["Bytes"]:
        for start, end in without_ranges(self.data):
            yield Bytes(self.data[:start] + self.data[end:])


def no_percent_sign_before_a_zero(case: Bytes) -> None:
    """A rule that some generated cases break."""
    if b"%" in case.data and b"0" in case.data.partition(b"%")[2]:
        raise Wrong("a percent sign before a zero", case.data.decode())


def campaign(play: object, *, seconds: float, first: int = 0, check: object = lambda: None) -> Campaign[Bytes]:
    def make(random: Random) -> Bytes:
        return Bytes(bytes(random.choices(b"abcdefghij0123456789%", k=30)))

    return Campaign(make, play, check, seed=7, seconds=seconds, first=first)  # type: ignore[arg-type]


def test_a_fault_is_reported_with_its_seed_its_number_and_the_smallest_case_that_shows_it() -> None:
    with pytest.raises(AssertionError, match=r"seed 7, \d+ cases\ncase \d+ .*percent sign") as found:
        campaign(no_percent_sign_before_a_zero, seconds=0.5).run()
    assert "Bytes(data=b'%0')" in str(found.value)
    number = int(str(found.value).split("\ncase ")[1].split()[0])
    again = campaign(no_percent_sign_before_a_zero, seconds=0.01, first=number)
    with pytest.raises(AssertionError, match=f"case {number} "):
        again.run()


def test_the_report_marks_a_fault_that_needs_several_cases() -> None:
    seen: list[Bytes] = []

    def only_once(case: Bytes) -> None:
        if seen:
            seen.clear()
            raise Wrong("not the first", "")
        seen.append(case)

    with pytest.raises(AssertionError, match="It does not fail alone"):
        campaign(only_once, seconds=0.05).run()


def test_a_run_without_a_fault_uses_its_time_and_checks_the_gateway_after_each_batch() -> None:
    played: list[Bytes] = []
    checks: list[int] = []
    campaign(played.append, seconds=0.5, check=lambda: checks.append(len(played))).run()
    assert len(set(played)) > 500
    assert checks[0] == 500
    assert checks[-1] == len(played)


def test_a_failed_check_ends_the_run() -> None:
    def fail() -> None:
        raise AssertionError("resident memory grew")

    with pytest.raises(AssertionError, match="resident memory grew"):
        campaign(lambda _: None, seconds=60, check=fail).run()
