"""Looks after what lasts longer than a request: WebSockets and event streams end when their caller may not stay.

One watcher for all of them, on the tick: a timer for each would cost more than the connections themselves. An admission
is looked at twice a second against the same caches as every request, so a change ends it within a second of reaching
this process.
"""

import asyncio
from dataclasses import dataclass
from typing import Final, Protocol

from gateway.admission import Admission, Waiting
from gateway.errors import Refusal
from gateway.gate import Gate

_EVERY: Final = 2  # ticks
_AT_ONCE: Final = 16  # look-ups in a store at the same time
_PATIENCE: Final = 10.0  # seconds without any store that could tell, after which nobody may stay


class Lasting(Protocol):
    """Something that goes on, and can be ended."""

    @property
    def admission(self) -> Admission | None:
        """What it was admitted by."""

    def revoke(self, refusal: Refusal) -> None:
        """End it: its caller may not stay."""


@dataclass(slots=True)
class _Watched:
    """`admission` is the one by the policy of `gate`; None: no gate has decided again yet. `unknown_since` is when
    stores began to fail to decide."""

    admission: Admission
    gate: Gate | None = None
    unknown_since: float | None = None


class Watch:
    """All that lasts in this process. `gate` is the one in force. After a reload it is another one, and decides again
    on the route: a route that is gone, or that asks for more, ends what lasts on it."""

    def __init__(self, gate: Gate, loop: asyncio.AbstractEventLoop) -> None:
        self.gate = gate
        self._loop = loop
        self._lasting: dict[Lasting, _Watched] = {}
        self._doubted: dict[Lasting, Waiting] = {}  # a store must be asked about them, first come first served
        self._asking: set[Lasting] = set()
        self._askers: set[asyncio.Task[None]] = set()
        self._turn = 0

    def add(self, lasting: Lasting) -> None:
        """Look after this from now on. Anonymous callers are included: a reload can close their route."""
        if lasting.admission is not None:
            self._lasting[lasting] = _Watched(lasting.admission)

    def remove(self, lasting: Lasting) -> None:
        """It has ended."""
        self._lasting.pop(lasting, None)
        self._doubted.pop(lasting, None)

    def tick(self, now: float) -> None:
        """Look at everything, every other tick."""
        self._turn = (self._turn + 1) % _EVERY
        if self._turn:
            return
        for lasting, watched in list(self._lasting.items()):
            verdict = self._verdict(watched)
            if isinstance(verdict, Refusal):
                self._end(lasting, verdict)
            elif verdict is not None and lasting not in self._asking:
                self._doubted[lasting] = verdict
        while len(self._askers) < min(_AT_ONCE, len(self._doubted)):
            asker = self._loop.create_task(self._ask())
            self._askers.add(asker)
            asker.add_done_callback(self._askers.discard)

    def _verdict(self, watched: _Watched) -> Refusal | Waiting | None:
        if watched.gate is self.gate:
            return self.gate.reconsider(watched.admission)
        # Its handshake can have been admitted before the last reload, so this includes what is new here.
        decision = self.gate.readmit(watched.admission)
        if not isinstance(decision, Admission):
            return decision
        watched.admission, watched.gate = decision, self.gate
        return None

    def close(self) -> None:
        """Look after nothing any more."""
        for asker in self._askers:
            asker.cancel()
        self._lasting.clear()

    async def _ask(self) -> None:
        """Ask about one after the other. Were the line only taken up at a tick, thousands would wait for minutes when
        all that is known is flushed at once."""
        while self._doubted:
            lasting = next(iter(self._doubted))
            waiting = self._doubted.pop(lasting)
            self._asking.add(lasting)
            try:
                self._conclude(lasting, await self.gate.reconclude(waiting))
            finally:
                self._asking.discard(lasting)

    def _conclude(self, lasting: Lasting, refusal: Refusal | None) -> None:
        if lasting not in self._lasting:
            return
        if refusal is not None and refusal.code == "storage_unavailable":
            self._nobody_knows(lasting, refusal)
        elif refusal is not None:
            self._end(lasting, refusal)
        else:
            self._lasting[lasting].unknown_since = None

    def _nobody_knows(self, lasting: Lasting, refusal: Refusal) -> None:
        """No store can tell. A moment is forgiven; for longer nobody may stay on a guess."""
        watched, now = self._lasting[lasting], self._loop.time()
        since = watched.unknown_since
        if since is None:
            watched.unknown_since = now
        elif now - since > _PATIENCE:
            self._end(lasting, refusal)

    def _end(self, lasting: Lasting, refusal: Refusal) -> None:
        self.remove(lasting)
        lasting.revoke(refusal)
