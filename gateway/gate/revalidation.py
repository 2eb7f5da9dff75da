"""End WebSockets and event streams when their caller loses access.

One watcher on the tick serves all of them, because a timer for each would cost more than the connections themselves. It
rechecks each admission twice a second against the same caches as every request, so a change ends the stream within a
second of reaching this process.
"""

import asyncio
from dataclasses import dataclass
from typing import Final, Protocol

from gateway.errors import Refusal
from gateway.gate.admission import Admission, PendingDecision
from gateway.gate.gate import Decider

_EVERY: Final = 2  # In ticks.
_AT_ONCE: Final = 16  # Concurrent store lookups.
_PATIENCE: Final = 10.0  # Seconds without any available store, after which access ends.


class Revocable(Protocol):
    """A running WebSocket or event stream."""

    @property
    def admission(self) -> Admission | None:
        """Its current admission."""

    def revoke(self, refusal: Refusal) -> None:
        """End it, because its caller has lost access."""


@dataclass(slots=True)
class _Watched:
    """`admission` was made by the policy of `gate`; None: not yet rechecked. `unknown_since` is the start of a store
    outage."""

    admission: Admission
    gate: Decider | None = None
    unknown_since: float | None = None


class RevocationWatcher:
    """All running WebSockets and event streams of this process. `gate` is the active one. A reload replaces it, and the
    new gate rechecks the routes: a removed or stricter route ends its streams."""

    def __init__(self, gate: Decider, loop: asyncio.AbstractEventLoop) -> None:
        self.gate = gate
        self._loop = loop
        self._watched: dict[Revocable, _Watched] = {}
        self._waiting: dict[Revocable, PendingDecision] = {}  # For a store lookup, in order of arrival.
        self._in_lookup: set[Revocable] = set()
        self._lookups: set[asyncio.Task[None]] = set()
        self._turn = 0

    def add(self, stream: Revocable) -> None:
        """Watch a stream. Anonymous callers are included: a reload can close their route."""
        if stream.admission is not None:
            self._watched[stream] = _Watched(stream.admission)

    def remove(self, stream: Revocable) -> None:
        """Stop watching a stream that has ended."""
        self._watched.pop(stream, None)
        self._waiting.pop(stream, None)

    def tick(self, now: float) -> None:
        """Recheck everything, every other tick."""
        self._turn = (self._turn + 1) % _EVERY
        if self._turn:
            return
        for stream, watched in list(self._watched.items()):
            verdict = self._verdict(watched)
            if isinstance(verdict, Refusal):
                self._end(stream, verdict)
            elif verdict is not None and stream not in self._in_lookup:
                self._waiting[stream] = verdict
        while len(self._lookups) < min(_AT_ONCE, len(self._waiting)):
            lookup = self._loop.create_task(self._look_up())
            self._lookups.add(lookup)
            lookup.add_done_callback(self._lookups.discard)

    def _verdict(self, watched: _Watched) -> Refusal | PendingDecision | None:
        if watched.gate is self.gate:
            return self.gate.recheck(watched.admission)
        # The handshake can have been admitted before the last reload, so a full decision is needed here.
        decision = self.gate.reevaluate(watched.admission)
        if not isinstance(decision, Admission):
            return decision
        watched.admission, watched.gate = decision, self.gate
        return None

    def close(self) -> None:
        """Stop watching."""
        for lookup in self._lookups:
            lookup.cancel()
        self._watched.clear()

    async def _look_up(self) -> None:
        """Process lookups one after another. Starting lookups only at ticks would delay thousands of streams by minutes
        after a flush of the caches."""
        while self._waiting:
            stream = next(iter(self._waiting))
            waiting = self._waiting.pop(stream)
            self._in_lookup.add(stream)
            try:
                self._apply(stream, await self.gate.resolve_recheck(waiting))
            finally:
                self._in_lookup.discard(stream)

    def _apply(self, stream: Revocable, refusal: Refusal | None) -> None:
        if stream not in self._watched:
            return
        if refusal is not None and refusal.code == "storage_unavailable":
            self._tolerate_outage(stream, refusal)
        elif refusal is not None:
            self._end(stream, refusal)
        else:
            self._watched[stream].unknown_since = None

    def _tolerate_outage(self, stream: Revocable, refusal: Refusal) -> None:
        """Handle a store outage: short ones are tolerated, longer ones end the stream, because access must not rest on
        a guess."""
        watched, now = self._watched[stream], self._loop.time()
        since = watched.unknown_since
        if since is None:
            watched.unknown_since = now
        elif now - since > _PATIENCE:
            self._end(stream, refusal)

    def _end(self, stream: Revocable, refusal: Refusal) -> None:
        self.remove(stream)
        stream.revoke(refusal)
