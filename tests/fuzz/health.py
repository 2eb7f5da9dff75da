"""Checks a gateway under attack for unexpected errors, growing memory and leaked descriptors."""

import re
from typing import Final

from tests.support.gateways import unhandled
from tests.support.processes import Gateway
from tests.support.raw import MiB
from tests.support.small import descriptors
from tests.support.waiting import eventually

_GROWTH: Final = 32 * MiB
_SPARE: Final = 24  # descriptors: idle connections to the upstream, and those that are about to close
_PYTHON_WARNINGS: Final = re.compile(r".*(?:never retrieved|never awaited|Unclosed |Exception ignored|Fatal error).*")


def unexpected_errors(gateway: Gateway) -> list[str]:
    """The lines of the log about errors that no code handles."""
    return unhandled(gateway) + _PYTHON_WARNINGS.findall(gateway.log())


class HealthCheck:
    """Compares a gateway with its state at the start. Memory counts from the second check, after caches have filled."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._descriptors = descriptors(gateway)
        self._memory: int | None = None
        self._checks = 0

    def check(self) -> None:
        """Raises AssertionError."""
        gateway = self._gateway
        assert gateway.running, f"the gateway ended:\n{gateway.log()[-4000:]}"
        found = unexpected_errors(gateway)
        assert not found, f"an unexpected error in the log:\n{found[0]}"
        eventually(lambda: descriptors(gateway) <= self._descriptors + _SPARE, timeout=10)
        self._checks += 1
        memory = gateway.memory()
        if self._checks == 2:
            self._memory = memory
        if self._memory is not None:
            grown = memory - self._memory
            assert grown <= _GROWTH, f"resident memory grew by {grown / MiB:.0f} MiB"
