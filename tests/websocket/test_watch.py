"""The watcher of running streams: thousands at once, and stores that are slow, down, or deny access."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from gateway.errors import Refusal
from gateway.gate.admission import Admission, PendingDecision
from gateway.gate.revalidation import RevocationWatcher
from tests.support.waiting import promised, until

_PARTS: Any = (None, (), None, None, None)
WAITING = PendingDecision(*_PARTS)
GONE = Refusal("token_revoked", presented=True)
OUT = Refusal("storage_unavailable")


class FakeGate:
    """Replaces the gate. `here` is the cached result, `there` the result of a store after `takes` seconds."""

    def __init__(self, here: object = None, there: Refusal | None = None, takes: float = 0.0) -> None:
        self.here = here
        self.there = there
        self.takes = takes
        self.asked: list[Any] = []
        self.at_once = self.most_at_once = 0

    def reevaluate(self, admission: Any) -> Any:
        """The first decision, and the decision after a reload."""
        return admission if self.here is None else self.here

    def recheck(self, admission: Any) -> Any:
        return self.here

    async def resolve_recheck(self, waiting: Any) -> Refusal | None:
        self.asked.append(waiting)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(self.takes)
        self.at_once -= 1
        return self.there


class FakeStream:
    """A running stream."""

    def __init__(self, principal: object = "somebody") -> None:
        parts: Any = (None, (), None, principal, None, None)
        self.admission: Admission | None = Admission(*parts)
        self.refusal: Refusal | None = None

    def revoke(self, refusal: Refusal) -> None:
        assert self.refusal is None, "it can end once"
        self.refusal = refusal


def watching(fake_gate: FakeGate, count: int) -> tuple[RevocationWatcher, list[FakeStream]]:
    watch: Any = RevocationWatcher(fake_gate, asyncio.get_running_loop())  # type: ignore[arg-type]
    streams = [FakeStream() for _ in range(count)]
    for stream in streams:
        watch.add(stream)
    return watch, streams


def look(watch: RevocationWatcher) -> None:
    """The watcher checks on every other tick."""
    watch.tick(0.0)
    watch.tick(0.0)


async def test_known_revocations_are_applied_at_once() -> None:
    fake_gate = FakeGate()
    watch, streams = watching(fake_gate, 3)
    look(watch)
    assert [stream.refusal for stream in streams] == [None] * 3
    fake_gate.here = GONE
    look(watch)
    assert [stream.refusal for stream in streams] == [GONE] * 3
    look(watch)


async def test_unknown_states_are_looked_up() -> None:
    fake_gate = FakeGate(WAITING)
    watch, streams = watching(fake_gate, 3)
    look(watch)
    await until(lambda: len(fake_gate.asked) == 3 and not fake_gate.at_once)
    fake_gate.there = GONE
    look(watch)
    await until(lambda: all(stream.refusal for stream in streams))
    assert [stream.refusal for stream in streams] == [GONE] * 3


async def test_when_nothing_is_known_any_more_thousands_are_asked_about_in_a_moment() -> None:
    """All copies are flushed when the change feed disconnects. No stream may stay unchecked in the queue."""
    fake_gate = FakeGate(WAITING, GONE, takes=0.001)
    watch, streams = watching(fake_gate, 2000)
    look(watch)
    await until(lambda: all(stream.refusal for stream in streams), within=promised(1.0))
    assert fake_gate.most_at_once <= 16
    assert len(fake_gate.asked) == 2000


async def finished(fake_gate: FakeGate) -> None:
    """Wait until no lookup runs."""
    await until(lambda: fake_gate.asked and not fake_gate.at_once)


async def test_a_stream_is_not_looked_up_twice_at_a_time() -> None:
    fake_gate = FakeGate(WAITING, takes=0.5)
    watch, _ = watching(fake_gate, 20)
    for _ in range(5):
        look(watch)
        await asyncio.sleep(0.002)
    await finished(fake_gate)
    assert len(fake_gate.asked) == 20


async def test_a_stream_that_ended_during_the_lookup_is_left_alone() -> None:
    fake_gate = FakeGate(WAITING, GONE, takes=0.01)
    watch, streams = watching(fake_gate, 40)
    look(watch)
    await asyncio.sleep(0)
    for stream in streams:
        watch.remove(stream)
        watch.remove(stream)
    await finished(fake_gate)
    assert [stream.refusal for stream in streams] == [None] * 40
    assert len(fake_gate.asked) == 16, "those still in the line were not asked about"


async def test_a_new_gate_decides_again_on_all_anonymous_callers_included() -> None:
    watch, streams = watching(FakeGate(), 2)
    stranger, unadmitted = FakeStream(principal=None), FakeStream()
    unadmitted.admission = None
    watch.add(stranger)
    watch.add(unadmitted)
    look(watch)
    assert [stream.refusal for stream in (*streams, stranger)] == [None] * 3
    replacement: Any = FakeGate(GONE)
    watch.gate = replacement
    look(watch)
    assert [stream.refusal for stream in (*streams, stranger)] == [GONE] * 3
    assert unadmitted.refusal is None


async def test_an_outage_is_forgiven_for_a_while() -> None:
    """For ten seconds, which restart when a store has answered."""
    clock = Clock()
    fake_gate = FakeGate(WAITING, OUT)
    watch: Any = RevocationWatcher(fake_gate, clock)  # type: ignore[arg-type]
    stream = FakeStream()
    watch.add(stream)
    for now, answer in ((0, OUT), (9, OUT), (9.5, None), (10, OUT), (19, OUT)):
        clock.now, fake_gate.there = now, answer
        fake_gate.asked.clear()
        look(watch)
        await finished(fake_gate)
        assert stream.refusal is None, now
    clock.now = 20.5
    look(watch)
    await until(lambda: stream.refusal)
    assert stream.refusal is OUT


class Clock:
    """The part of an event loop that the watcher needs, with manual time."""

    now = 0.0

    def time(self) -> float:
        return self.now

    def create_task(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return asyncio.get_running_loop().create_task(work)


async def test_a_removed_stream_causes_no_further_lookup() -> None:
    fake_gate = FakeGate(WAITING, GONE, takes=0.05)
    watch, streams = watching(fake_gate, 3)
    look(watch)
    await until(lambda: fake_gate.asked)
    watch.close()
    await asyncio.sleep(0.1)
    look(watch)
    assert [stream.refusal for stream in streams] == [None] * 3
