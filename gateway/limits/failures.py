"""Failed attempts, counted by whoever made them: how many are allowed, and how many there were, in this process.

A count begins with a failure and is forgotten `window` seconds later. With the last failure that is allowed it becomes
a ban, and is forgotten `ban` seconds after that. What is refused during a ban is not counted, so a ban ends when it
was said to end.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

from gateway.identity.generations import Generations

ROOM: Final = 65536  # counts kept in a process: a flood of made-up names pushes out those that are oldest


class Allowance(NamedTuple):
    """`failures` within `window` seconds, then `ban` seconds without another attempt."""

    failures: int
    window: float
    ban: float


class Counter(NamedTuple):
    """What is counted: `key` among all counts; with whatever else goes by `owner` it can be pardoned."""

    owner: str
    key: str
    allowance: Allowance


class Standing(NamedTuple):
    """How a count stands: so many failures, forgotten in so many seconds. `pardon` names the last pardon (0: there
    is none); `pardoned`: it voids what was reported, and whatever was known before."""

    failures: int
    remaining: float
    pardoned: bool = False
    pardon: int = 0


class Report(NamedTuple):
    """Failures that the shared store has not counted yet, the first of them `age` seconds ago. None is a question.
    `ban`: seconds for which the counter is closed, if they are the last that are allowed. `pardon` is the last one that
    is known here; None where the store has not been asked since the first failure."""

    counter: Counter
    failures: int
    age: float
    ban: float
    pardon: int | None = None


class SharedFailures(Protocol):
    """The counts that all replicas share."""

    @property
    def available(self) -> bool:
        """Whether it is worth asking."""

    async def report(self, reports: Sequence[Report]) -> list[Standing]:
        """Count these; how each counter stands then. Raises StorageUnavailable, within 250 ms."""

    async def forget(self, counter: Counter) -> None:
        """Begin this one anew. Raises StorageUnavailable."""

    async def pardon(self, owners: Sequence[str], *, lifetime: float) -> None:
        """Begin all of these owners' anew; no count from before lives longer than `lifetime` seconds from now. Raises
        StorageUnavailable."""


class _Tally:
    __slots__ = ("began", "count", "ends", "owed", "pardon")

    def __init__(self, now: float) -> None:
        self.count = 0
        self.began = now
        self.ends = now
        self.owed = 0  # of the count, what the shared store has not been told
        self.pardon: int | None = None


class Failures:
    """The counts of this process: all there are, or what is known of the shared ones and is still to be told there.

    Times are in seconds, on any one clock.
    """

    def __init__(self, *, lifetime: float, room: int = ROOM) -> None:
        self._kept: Generations[str, _Tally] = Generations(room, lifetime=lifetime)

    def __len__(self) -> int:
        return len(self._kept)

    def wait(self, counter: Counter, now: float) -> float:
        """Seconds until another attempt is allowed; 0: it is now."""
        tally = self._living(counter.key, now)
        banned = tally is not None and tally.count >= counter.allowance.failures
        return tally.ends - now if tally is not None and banned else 0.0

    def failed(self, counter: Counter, now: float) -> None:
        """Count a failure."""
        allowance = counter.allowance
        tally = self._living(counter.key, now) or _Tally(now)
        if tally.count == 0:
            tally.ends = now + allowance.window
        tally.count += 1
        tally.owed += 1
        if tally.count == allowance.failures:
            tally.ends = now + allowance.ban
        self._kept.put(counter.key, tally, now)

    def take_debt(self, counter: Counter, now: float) -> Report:
        """What is to be told the shared store; told it counts as, unless it is given back."""
        tally = self._living(counter.key, now)
        if tally is None:
            return Report(counter, 0, 0.0, counter.allowance.ban)
        owed, tally.owed = tally.owed, 0
        banned = tally.count >= counter.allowance.failures
        ban = tally.ends - now if banned else counter.allowance.ban
        return Report(counter, owed, now - tally.began, ban, tally.pardon)

    def give_back(self, report: Report, now: float) -> None:
        """The shared store could not be told."""
        tally = self._living(report.counter.key, now)
        if tally is not None:
            tally.owed += report.failures

    def learn(self, counter: Counter, standing: Standing, now: float) -> None:
        """How a count stands in the shared store, which knows better; only what it has not been told comes on top. A
        ban that it has forgotten (it was restarted, or could not be told) stays one, and is told it again."""
        tally = self._living(counter.key, now) or _Tally(now)
        allowed = counter.allowance.failures
        tally.pardon = standing.pardon
        if not standing.pardoned and standing.failures < allowed <= tally.count:
            tally.owed = tally.count - standing.failures
            return
        tally.count = standing.failures + tally.owed
        if tally.count == 0:
            self._kept.drop(counter.key)
            return
        if standing.failures:
            tally.ends = now + standing.remaining
        self._kept.put(counter.key, tally, now)

    def forget(self, counter: Counter) -> None:
        """Begin a count anew."""
        self._kept.drop(counter.key)

    def _living(self, key: str, now: float) -> _Tally | None:
        tally = self._kept.young.get(key) or self._kept.aged(key)
        return tally if tally is not None and now < tally.ends else None
