"""Measures the delay of messages through Redis.

    pulse sent ── arrives in time, WANTED_AGAIN times after a late one ──▶ punctual
               ── does not arrive within BOUND ──────────────────────────▶ late

The pulse goes to the server on a connection for commands and returns on the subscription, behind all messages that wait
there. The way to the server is not part of the delay. It is half of a round trip if both directions take equally long.
Because they can differ, only two fifths of the shortest round trip are subtracted.
"""

import asyncio
import itertools
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from typing import Final

from gateway.samples import Sample

BOUND: Final = 0.1  # seconds
_CHECK_EVERY: Final = 0.02  # seconds
# A later check means that this process was delayed. That time is not a delay of Redis or the network.
_HELD_UP: Final = 0.05  # seconds
_REQUIRED_AGAIN: Final = 4  # pulses in time after a late one, so that single pulses do not turn copies on and off
_WAY: Final = 0.4  # the share of a round trip that is subtracted
_OUTSTANDING: Final = 64
_ROUND_TRIPS: Final = 240  # those of the last minute


class _Pulse:
    """A pulse on its way. `age` excludes the time in which this process did not run."""

    def __init__(self, now: float) -> None:
        self.is_late = False
        self._sent_at = self._checked_at = now
        self._held_up = 0.0

    def check(self, now: float) -> None:
        """Account for the time since the last check."""
        held_up = now - self._checked_at - _CHECK_EVERY
        if held_up > _HELD_UP:
            self._held_up += held_up
        self._checked_at = now

    def age(self, now: float) -> float:
        """Return the seconds since the pulse was sent."""
        return now - self._sent_at - self._held_up


class FeedLag:
    """Calls `changed` when messages become late and when they are in time again. Bound to an event loop."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._numbers = itertools.count(1)
        self._pulses: OrderedDict[int, _Pulse] = OrderedDict()
        self._round_trips: deque[float] = deque(maxlen=_ROUND_TRIPS)
        self._required = 1
        self._is_late = False
        self._last: float | None = None

    @property
    def is_punctual(self) -> bool:
        """Whether the last messages arrived in time."""
        return self._required == 0

    def restart(self) -> None:
        """Reset all measurements for a new subscription."""
        self._pulses.clear()
        self._required = 1
        self._is_late = False
        self._last = None

    def note_round_trip(self, seconds: float) -> None:
        """Note the time from the start of a command to its reply."""
        self._round_trips.append(seconds)

    def send(self) -> int:
        """Return the number of a pulse that is sent now."""
        number = next(self._numbers)
        self._pulses[number] = _Pulse(_now())
        if len(self._pulses) > _OUTSTANDING:
            self._pulses.popitem(last=False)
        self._wait(number)
        return number

    def arrived(self, number: int) -> None:
        """Note the return of a pulse. Ignore an unexpected one: another client replayed it."""
        pulse = self._pulses.pop(number, None)
        if pulse is None:
            return
        pulse.check(_now())
        self._last = self._lag(pulse)
        if pulse.is_late:
            return
        if self._last >= BOUND:
            self._late()
        elif self._required > 0:
            self._required -= 1
            if self._required == 0:
                self._is_late = False
                self._changed()

    def samples(self) -> Iterator[Sample]:
        """Yield the delay of the last pulse, or the age of the oldest late one."""
        late = (self._lag(pulse) for pulse in self._pulses.values() if pulse.is_late)
        seconds = max(late, default=self._last)
        if seconds is not None:
            yield Sample("gateway_redis_feed_lag_seconds", (), seconds)

    def _lag(self, pulse: _Pulse) -> float:
        return max(0.0, pulse.age(_now()) - min(self._round_trips, default=0.0) * _WAY)

    def _wait(self, number: int) -> None:
        asyncio.get_running_loop().call_later(_CHECK_EVERY, self._check, number)

    def _check(self, number: int) -> None:
        pulse = self._pulses.get(number)
        if pulse is None:
            return
        pulse.check(_now())
        if self._lag(pulse) < BOUND:
            self._wait(number)
            return
        pulse.is_late = True
        self._late()

    def _late(self) -> None:
        self._required = _REQUIRED_AGAIN
        if not self._is_late:
            self._is_late = True
            self._changed()


def _now() -> float:
    return asyncio.get_running_loop().time()
