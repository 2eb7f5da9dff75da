"""The memory of the console: the traffic and refusals since the start of the process, also before its first view."""

from typing import Final, NamedTuple

from gateway.api.console.recent_refusals import RecentRefusals
from gateway.observability.metrics.history import TrafficHistory
from gateway.observability.metrics.metrics import Metrics

OWN_ROUTES: Final = ("operations.console", "operations.console.sign")


class ConsoleMemory(NamedTuple):
    """The recent traffic and refusals, from the start of the process on."""

    history: TrafficHistory
    refusals: RecentRefusals

    @staticmethod
    def of(metrics: Metrics) -> "ConsoleMemory":
        """An empty memory. The history leaves the console's own requests out."""
        return ConsoleMemory(TrafficHistory(metrics.state, left_out=OWN_ROUTES), RecentRefusals())
