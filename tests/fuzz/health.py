"""Checks that a gateway under attack stays well: no errors in its log, no growing memory, no open descriptors."""

import re
from typing import Final

from tests.support.gateways import unhandled
from tests.support.processes import Gateway
from tests.support.raw import MiB
from tests.support.small import descriptors
from tests.support.waiting import eventually

_GROWTH: Final = 32 * MiB
_SPARE: Final = 24  # descriptors: idle connections to the upstream, and those that are about to close
_ALARMS: Final = re.compile(r".*(?:never retrieved|never awaited|Unclosed |Exception ignored|Fatal error).*")


def alarms(gateway: Gateway) -> list[str]:
    """Errors in the log of a gateway that its code does not expect."""
    return unhandled(gateway) + _ALARMS.findall(gateway.log())


class Watch:
    """Compares a gateway with itself. Memory counts from the second look: the first fills the caches."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._descriptors = descriptors(gateway)
        self._memory: int | None = None
        self._looks = 0

    def look(self) -> None:
        """Raises AssertionError."""
        gateway = self._gateway
        assert gateway.running, f"the gateway ended:\n{gateway.log()[-4000:]}"
        found = alarms(gateway)
        assert not found, f"an unhandled error in the log:\n{found[0]}"
        eventually(lambda: descriptors(gateway) <= self._descriptors + _SPARE, timeout=10)
        self._looks += 1
        memory = gateway.memory()
        if self._looks == 2:
            self._memory = memory
        if self._memory is not None:
            grown = memory - self._memory
            assert grown <= _GROWTH, f"resident memory grew by {grown / MiB:.0f} MiB"
