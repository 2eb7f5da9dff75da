"""The health of targets: results of active checks, and outlier ejection by the outcomes of requests.

The module does no I/O. Times are the loop's time in seconds.
"""

from collections.abc import Iterator
from math import inf
from typing import Final

from gateway.samples import Sample
from gateway.settings.model import EjectSettings, HealthSettings

SLOW_START: Final = 10.0  # seconds over which a target that was unusable gets back its full share of the requests
_LEAST_SHARE: Final = 0.1


class UpstreamHealth:
    """The health of all targets of one upstream, in the file's order.

    Ejection is a guess, and has two limits. The last usable target is never ejected. While fewer than half of the
    targets are usable, ejections are ignored (panic threshold): such failures have a common cause, and the remaining
    targets would get more requests than they can serve. The results of active checks are always respected.
    """

    __slots__ = ("panic_until", "targets")

    def __init__(self, targets: int, health: HealthSettings | None, eject: EjectSettings | None) -> None:
        self.panic_until = 0.0  # ejections are ignored before this time
        self.targets = tuple(TargetHealth(self, health, eject) for _ in range(targets))

    def has_other_than(self, target: "TargetHealth", now: float) -> bool:
        """Whether another target is usable."""
        return any(other.is_up and now >= other.ejected_until for other in self.targets if other is not target)

    def update(self) -> None:
        """Compute when half of the targets are usable again, after a change of any of them."""
        half = (len(self.targets) + 1) // 2
        usable_from = sorted(target.ejected_until for target in self.targets if target.is_up)
        self.panic_until = usable_from[half - 1] if len(usable_from) >= half else inf

    def samples(self, upstream: str, now: float) -> Iterator[Sample]:
        """Yield whether the panic threshold is crossed."""
        yield Sample("gateway_upstream_panic", (upstream,), int(now < self.panic_until))


class TargetHealth:
    """The health of one target. Without settings it is always usable."""

    __slots__ = (
        "_credit",
        "_eject",
        "_ejections",
        "_failed",
        "_failures",
        "_health",
        "_returned_at",
        "_row",
        "_upstream",
        "ejected_until",
        "is_up",
    )

    def __init__(self, upstream: UpstreamHealth, health: HealthSettings | None, eject: EjectSettings | None) -> None:
        self._upstream = upstream
        self._health = health
        self._eject = eject
        self.is_up = True  # by active checks; a target counts as up until they fail
        self._row = 0  # checks in a row that contradict `is_up`
        self._failures = 0  # requests in a row that failed
        self.ejected_until = 0.0
        self._returned_at: float | None = None
        self._credit = 0.0
        self._failed = self._ejections = 0  # totals

    def usable(self, now: float) -> bool:
        """Return whether requests can be sent to the target."""
        return self.is_up and (now >= self.ejected_until or now < self._upstream.panic_until)

    def wait(self, now: float) -> float:
        """Return the least number of seconds until the target can be usable; 0 if it is."""
        if self.usable(now):
            return 0.0
        ejected = max(0.0, self.ejected_until - now)
        if self.is_up or self._health is None:
            return ejected
        return max(ejected, (self._health.rise - self._row) * self._health.interval)

    def in_rotation(self, now: float) -> bool:
        """Return whether the target takes its turn. After its return it passes on most turns at first (slow start),
        because a target that has just started cannot serve its full share."""
        if self._returned_at is None or now < self._upstream.panic_until:
            return True
        share = (now - self._returned_at) / SLOW_START
        if share >= 1:
            self._returned_at = None
            return True
        self._credit += max(share, _LEAST_SHARE)
        if self._credit < 1:
            return False
        self._credit -= 1
        return True

    def succeeded(self) -> None:
        """Record a request that was answered."""
        self._failures = 0

    def failed(self, now: float) -> bool:
        """Record a request that failed. Returns whether this ejects the target."""
        self._failed += 1
        if self._eject is None or now < self.ejected_until:
            return False
        self._failures += 1
        if self._failures < self._eject.failures or not self._upstream.has_other_than(self, now):
            return False
        self.ejected_until = self._returned_at = now + self._eject.for_
        self._credit = 0.0
        self._ejections += 1
        self._upstream.update()
        return True

    def checked(self, *, healthy: bool, now: float) -> bool:
        """Record an active check. Returns whether it changed `is_up` or ended an ejection."""
        assert self._health is not None
        if healthy == self.is_up:
            self._row = 0
            if not healthy or now >= self.ejected_until:
                return False
        else:
            self._row += 1
            if self._row < (self._health.rise if healthy else self._health.fall):
                return False
            self.is_up, self._row = healthy, 0
        if healthy:
            self._failures, self.ejected_until = 0, 0.0
            self._returned_at, self._credit = now, 0.0
        self._upstream.update()
        return True

    def samples(self, labels: tuple[str, ...], now: float) -> Iterator[Sample]:
        """Yield the state and the counters of the target."""
        failing = self._eject is not None and self._failures >= self._eject.failures
        yield Sample("gateway_upstream_target_up", labels, int(self.is_up))
        yield Sample("gateway_upstream_target_ejected", labels, int(now < self.ejected_until))
        yield Sample("gateway_upstream_target_failing", labels, int(failing))
        yield Sample("gateway_upstream_failures_total", labels, self._failed)
        yield Sample("gateway_upstream_ejections_total", labels, self._ejections)
