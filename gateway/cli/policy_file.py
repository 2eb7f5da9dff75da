"""Load a configuration for its policy. No keys are loaded, so these commands start fast and run where the keys are
not available, for example in CI."""

from pathlib import Path

from gateway.cli.options import DEFAULT_CONFIGURATION
from gateway.errors import CannotStart
from gateway.policy.loader import Configuration, load_configuration


def loaded_policy(path: Path) -> Configuration:
    """Load a file. Raises ConfigurationError with every problem, and CannotStart for a missing file."""
    must_exist(path)
    return load_configuration(path)


def must_exist(path: Path) -> None:
    """Raise CannotStart with a hint for new users if the default configuration file is missing."""
    if path == DEFAULT_CONFIGURATION and not path.exists():
        raise CannotStart(
            f"{path} does not exist; write it (docs/configuration.md), choose another file with --config or "
            "GATEWAY_CONFIG, or try 'gateway demo' first"
        )
