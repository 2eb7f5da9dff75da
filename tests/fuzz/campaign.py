"""Runs generated cases for a fixed time, and reports each kind of failure with the smallest case that shows it.

A case depends on the seed and its number alone, so `FUZZ_SEED=7 FUZZ_FIRST=1234` plays case 1234 of seed 7 again.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Final, Generic, Protocol, Self, TypeVar

from tests.fuzz.settings import MOST_FAILURES

_MINIMISE_SECONDS: Final = 20.0
_REST: Final = 0.02  # seconds after a failure, in which its late bytes arrive
_BATCH: Final = 500


class Wrong(AssertionError):
    """The outcome of a case is not an allowed one. Failures of the same `kind` probably have the same cause."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind = kind
        self.detail = detail


class Case(Protocol):
    """The bytes of one connection of a client or of an upstream."""

    def smaller(self) -> Iterator[Self]:
        """Cases with fewer bytes or fewer properties, the smallest first."""


C = TypeVar("C", bound=Case)


@dataclass
class Failure:
    """One kind of failure: the number of the first case that shows it, and the smallest such case.

    `alone` is false if the case passes on its own, so that it needs the cases before it.
    """

    number: int
    kind: str
    detail: str
    smallest: object
    alone: bool
    times: int = 1

    def __str__(self) -> str:
        how = "" if self.alone else "\n  It does not fail alone: the cases before it matter."
        return f"case {self.number} ({self.times} times): {self.detail}{how}\n  {self.smallest!r}"


@dataclass
class Campaign(Generic[C]):
    """Generates cases with `make` and plays them with `play`, which raises Wrong.

    `check` runs after each batch and raises AssertionError.
    """

    make: Callable[[Random], C]
    play: Callable[[C], None]
    check: Callable[[], None]
    seed: int
    seconds: float
    first: int = 0
    played: int = 0
    failures: dict[str, Failure] = field(default_factory=dict)

    def run(self) -> None:
        """Play cases for the given time. Raises AssertionError with a list of the failures."""
        number, remaining = self.first, self.seconds
        while remaining > 0 and len(self.failures) < MOST_FAILURES:
            begun = time.monotonic()
            self._try(number)
            remaining -= time.monotonic() - begun
            number += 1
            if number % _BATCH == 0:
                self.check()
        self.played = number - self.first
        self.check()
        print(f"\nseed {self.seed}: {self.played} cases in {self.seconds:.0f} s")
        assert not self.failures, self.report()

    def report(self) -> str:
        found = "\n".join(str(failure) for failure in self.failures.values())
        return f"seed {self.seed}, {self.played} cases\n{found}"

    def _try(self, number: int) -> None:
        case = self.make(Random(f"{self.seed}-{number}"))
        try:
            self.play(case)
        except Wrong as wrong:
            known = self.failures.get(wrong.kind)
            if known is not None:
                known.times += 1
                time.sleep(_REST)
                return
            alone = self._fails(case, wrong.kind)
            smallest = self._smallest(case, wrong.kind) if alone else case
            detail = str(wrong)
            if alone:
                try:
                    self.play(smallest)
                except Wrong as last:
                    detail = str(last)
            time.sleep(_REST)
            self.failures[wrong.kind] = Failure(number, wrong.kind, detail, smallest, alone)
            print(self.failures[wrong.kind], flush=True)

    def _fails(self, case: C, kind: str) -> bool:
        time.sleep(_REST)
        try:
            self.play(case)
        except Wrong as wrong:
            return wrong.kind == kind
        return False

    def _smallest(self, case: C, kind: str) -> C:
        """Remove bytes from the case while it still fails."""
        until = time.monotonic() + _MINIMISE_SECONDS
        while time.monotonic() < until:
            for smaller in case.smaller():
                if self._fails(smaller, kind):
                    case = smaller
                    break
                if time.monotonic() > until:
                    break
            else:
                break
        return case


def without_ranges(data: bytes) -> Iterator[tuple[int, int]]:
    """Ranges of the data to remove, the longest first."""
    size = len(data)
    while (size := size // 2) >= 1:
        for start in range(0, len(data), size):
            yield start, start + size
