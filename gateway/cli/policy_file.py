"""How commands read a configuration of which the policy is all that matters: no key is loaded, so they start quickly
and run where the keys are not, in CI for one."""

from pathlib import Path

from gateway.cli.options import DEFAULT_CONFIGURATION
from gateway.errors import CannotStart
from gateway.policy.loading import Configuration, load_configuration


def loaded_policy(path: Path) -> Configuration:
    """The settings and the policy of a file. Raises ConfigurationError with every problem, CannotStart without a
    file."""
    must_exist(path)
    return load_configuration(path)


def must_exist(path: Path) -> None:
    """A newcomer who has no configuration yet deserves more than that there is no such file."""
    if path == DEFAULT_CONFIGURATION and not path.exists():
        raise CannotStart(
            f"there is no {path} here; write one (docs/configuration.md), name another with --config or "
            "GATEWAY_CONFIG, or look around first with 'gateway demo'"
        )
