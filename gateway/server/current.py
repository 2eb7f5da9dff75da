"""The configuration that is in force, as the process that supervises the workers knows it."""

import logging
from collections.abc import Callable
from concurrent.futures import Future
from typing import Final

from gateway.errors import CannotStart, ConfigurationError
from gateway.observability.events import event
from gateway.policy.loader import Configuration
from gateway.reloading import merged

Load = Callable[[], Configuration]

log: Final = logging.getLogger("gateway.server")


class Current:
    """The configuration that the next worker starts with: what the others are running by now, so that no worker differs
    in what takes a restart."""

    def __init__(self, configuration: Configuration, load: Load | None) -> None:
        self.configuration = configuration
        self._load = load

    def load(self) -> Configuration:
        """Load the file; meant for a thread. Raises ConfigurationError and CannotStart."""
        if self._load is None:
            return self.configuration
        return merged(self.configuration, self._load())[0]

    def accept(self, loaded: "Future[Configuration]") -> bool:
        """Put the result of `load` in force; False where it failed. The reason is reported here, once, and not by every
        worker."""
        try:
            configuration = loaded.result()
        except (ConfigurationError, CannotStart) as error:
            say_refused(error)
            return False
        except Exception:
            log.exception("loading the new configuration failed: the old one stays")
            return False
        is_new = configuration is not self.configuration
        self.configuration = configuration
        return is_new


def say_refused(error: ConfigurationError | CannotStart) -> None:
    """Say on standard error why a new configuration is not taken."""
    for line in str(error).splitlines():
        event("reload", f"refused, the old configuration stays: {line}")
