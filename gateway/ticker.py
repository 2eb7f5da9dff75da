"""One timer for everything periodic: timeouts, batched log lines, keep-alive limits.

A timer per request costs 9 µs (libuv timer, armed and cancelled); a deadline attribute checked by this tick costs 0.04
µs. In exchange, everything driven by the tick can be up to PERIOD late.
"""

import asyncio
from collections.abc import Callable
from email.utils import formatdate
from typing import Final

from gateway.samples import Durations

PERIOD: Final = 0.25  # In seconds.

Listener = Callable[[float], None]


def _date() -> bytes:
    """The value of the Date field now (RFC 9110 5.6.7)."""
    return formatdate(usegmt=True).encode("ascii")


class Ticker:
    """Calls its listeners four times a second with the loop's time. Errors of listeners are reported, and the listener
    stays. `lag` measures the delay of the event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._listeners: list[Listener] = []
        self._handle: asyncio.TimerHandle | None = None
        self.now = loop.time()
        self.lag = Durations("gateway_event_loop_lag_seconds")
        self.date = _date()
        self._date_due = self.now + 1

    def after(self, seconds: float) -> float:
        """The time `seconds` from now, never too early: `now` can be one period old."""
        return self.now + PERIOD + seconds

    @property
    def listeners(self) -> int:
        """The number of listeners."""
        return len(self._listeners)

    def subscribe(self, listener: Listener) -> None:
        """Call `listener` with the loop's time at every tick."""
        self._listeners.append(listener)

    def unsubscribe(self, listener: Listener) -> None:
        """Remove a listener."""
        self._listeners.remove(listener)

    def start(self) -> None:
        self._handle = self._loop.call_later(PERIOD, self._tick)

    def stop(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _tick(self) -> None:
        due = self._handle.when() if self._handle is not None else self.now
        self._handle = self._loop.call_later(PERIOD, self._tick)
        self.now = self._loop.time()
        self.lag.observe(self.now - due)
        if self.now >= self._date_due:
            self._date_due = self.now + 1
            self.date = _date()
        for listener in tuple(self._listeners):
            try:
                listener(self.now)
            except Exception as error:
                self._loop.call_exception_handler({"message": "a tick listener failed", "exception": error})
