"""Whether a target may be sent requests: what active checks say, and what requests themselves show.

Pure: times come in as the loop's time in seconds, nothing here waits or speaks to anybody.
"""

from collections.abc import Iterator
from typing import Final

from gateway.counting import Sample
from gateway.settings.model import EjectSettings, HealthSettings

SLOW_RETURN: Final = 10.0  # seconds over which a target that was out gets back its full share of the requests
_LEAST_SHARE: Final = 0.1


class TargetHealth:
    """The health of one target. Without settings it is always well."""

    __slots__ = (
        "_credit",
        "_eject",
        "_ejected_until",
        "_ejections",
        "_failed",
        "_failures",
        "_health",
        "_returned_at",
        "_row",
        "is_up",
    )

    def __init__(self, health: HealthSettings | None, eject: EjectSettings | None) -> None:
        self._health = health
        self._eject = eject
        self.is_up = True  # what active checks say; a target is believed well until they have said otherwise
        self._row = 0  # checks in a row that contradict `is_up`
        self._failures = 0  # requests in a row that failed
        self._ejected_until = 0.0
        self._returned_at: float | None = None
        self._credit = 0.0
        self._failed = self._ejections = 0  # in all

    def usable(self, now: float) -> bool:
        """Whether requests may go there at all."""
        return self.is_up and now >= self._ejected_until

    def wait(self, now: float) -> float:
        """Seconds until it may be usable, if all goes well; 0 when it is."""
        ejected = max(0.0, self._ejected_until - now)
        if self.is_up or self._health is None:
            return ejected
        return max(ejected, (self._health.rise - self._row) * self._health.interval)

    def takes_turn(self, now: float) -> bool:
        """Whether it takes the turn it is offered: after a return it lets most of them pass at first, so that a target
        that has just started is not run over."""
        if self._returned_at is None:
            return True
        share = (now - self._returned_at) / SLOW_RETURN
        if share >= 1:
            self._returned_at = None
            return True
        self._credit += max(share, _LEAST_SHARE)
        if self._credit < 1:
            return False
        self._credit -= 1
        return True

    def succeeded(self) -> None:
        """A request was answered."""
        self._failures = 0

    def failed(self, now: float) -> bool:
        """A request failed: a connect error, a time-out, or an answer 502, 503 or 504. Whether it is ejected now."""
        self._failed += 1
        if self._eject is None or now < self._ejected_until:
            return False
        self._failures += 1
        if self._failures < self._eject.failures:
            return False
        # One failure is enough the next time: it has to show first that it is well.
        self._failures = self._eject.failures - 1
        self._ejected_until = self._returned_at = now + self._eject.for_
        self._credit = 0.0
        self._ejections += 1
        return True

    def checked(self, *, well: bool, now: float) -> bool:
        """An active check came out. Whether that changed what is thought of the target."""
        assert self._health is not None
        if well == self.is_up:
            self._row = 0
            return False
        self._row += 1
        if self._row < (self._health.rise if well else self._health.fall):
            return False
        self.is_up, self._row = well, 0
        if well:
            self._failures, self._ejected_until = 0, 0.0
            self._returned_at, self._credit = now, 0.0
        return True

    def samples(self, labels: tuple[str, ...], now: float) -> Iterator[Sample]:
        """What there is to tell about it."""
        yield Sample("gateway_upstream_target_up", labels, int(self.is_up))
        yield Sample("gateway_upstream_target_ejected", labels, int(now < self._ejected_until))
        yield Sample("gateway_upstream_failures_total", labels, self._failed)
        yield Sample("gateway_upstream_ejections_total", labels, self._ejections)
