"""Measures how late messages arrive through Redis.

    pulse sent ── arrives in time, WANTED_AGAIN times after a late one ──▶ punctual
               ── does not arrive within BOUND ──────────────────────────▶ late

The pulse goes to the server on a connection for commands and comes back on the subscription, behind all messages that
wait there. The way to the server is no lag. It takes half of a round trip where both ways are alike; a third of the
shortest round trip is taken off, because they can differ.
"""

import asyncio
import itertools
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from typing import Final

from gateway.counting import Sample

BOUND: Final = 0.1  # seconds
# The bound is waited for in so many parts. While the machine does not run this process, none of them passes: the lag
# measures Redis and the network.
_SLICES: Final = 5
_WANTED_AGAIN: Final = 4  # pulses in time after a late one: copies must not come and go with each of them
_OUTSTANDING: Final = 64
_ROUND_TRIPS: Final = 240  # the last minute


class _Pulse:
    def __init__(self, sent_at: float) -> None:
        self.sent_at = sent_at
        self.slices = 0

    @property
    def is_late(self) -> bool:
        return self.slices >= _SLICES


class FeedLag:
    """`changed` is called when messages begin to be late, and when they are in time again. Bound to an event loop."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._numbers = itertools.count(1)
        self._pulses: OrderedDict[int, _Pulse] = OrderedDict()
        self._round_trips: deque[float] = deque(maxlen=_ROUND_TRIPS)
        self._wanted = 1
        self._last: float | None = None

    @property
    def is_punctual(self) -> bool:
        """Whether the last messages arrived in time."""
        return self._wanted == 0

    def restart(self) -> None:
        """Forget all: the subscription is another one."""
        self._pulses.clear()
        self._wanted = 1
        self._last = None

    def note_round_trip(self, seconds: float) -> None:
        """How long a command took, from its start to its answer."""
        self._round_trips.append(seconds)

    def send(self) -> int:
        """The number of a pulse that is sent now."""
        number = next(self._numbers)
        self._pulses[number] = _Pulse(asyncio.get_running_loop().time())
        if len(self._pulses) > _OUTSTANDING:
            self._pulses.popitem(last=False)
        self._wait(number)
        return number

    def arrived(self, number: int) -> None:
        """A pulse came back. One that is not awaited says nothing: another client published it again."""
        pulse = self._pulses.pop(number, None)
        if pulse is None:
            return
        self._last = self._age(pulse)
        if pulse.is_late or self._wanted == 0:
            return
        self._wanted -= 1
        if self._wanted == 0:
            self._changed()

    def samples(self) -> Iterator[Sample]:
        """The lag of the last pulse, or the age of the oldest that is late."""
        late = (self._age(pulse) for pulse in self._pulses.values() if pulse.is_late)
        seconds = max(late, default=self._last)
        if seconds is not None:
            yield Sample("gateway_redis_feed_lag_seconds", (), seconds)

    def _age(self, pulse: _Pulse) -> float:
        age = asyncio.get_running_loop().time() - pulse.sent_at - self._way
        if not pulse.is_late:
            age = min(age, (pulse.slices + 1) * self._slice)
        return max(0.0, age)

    @property
    def _way(self) -> float:
        return min(self._round_trips, default=0.0) / 3

    @property
    def _slice(self) -> float:
        return (BOUND + self._way) / _SLICES

    def _wait(self, number: int) -> None:
        asyncio.get_running_loop().call_later(self._slice, self._slice_over, number)

    def _slice_over(self, number: int) -> None:
        pulse = self._pulses.get(number)
        if pulse is None:
            return
        pulse.slices += 1
        if not pulse.is_late:
            self._wait(number)
            return
        was_punctual, self._wanted = self.is_punctual, _WANTED_AGAIN
        if was_punctual:
            self._changed()
