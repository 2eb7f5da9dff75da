"""Load the configuration for commands, and collect all of its problems.

Commands that need only the policy use `loaded_policy`. It loads no keys, so they start fast and run where the keys are
not available, for example in CI.
"""

import os
from pathlib import Path
from typing import Final, NamedTuple

import click

from gateway.errors import CannotStart, ConfigurationError, Problem
from gateway.policy.loader import Configuration, load_configuration
from gateway.settings.checks import missing_extras
from gateway.settings.loader import read_settings
from gateway.settings.model import Settings
from gateway.settings.store_files import unusable_files

DEFAULT_CONFIGURATION: Final = Path("config/gateway.yaml")
_BESIDE: Final = Path("gateway.yaml")  # where `gateway init` writes


def _default_configuration() -> Path:
    return _BESIDE if _BESIDE.exists() and not DEFAULT_CONFIGURATION.exists() else DEFAULT_CONFIGURATION


config_option = click.option(
    "--config",
    "config",
    metavar="FILE",
    type=click.Path(path_type=Path, readable=False),  # the loader names the file and the reason
    envvar="GATEWAY_CONFIG",
    default=_default_configuration,
    show_default=f"{DEFAULT_CONFIGURATION}, or {_BESIDE}",
    show_envvar=True,
    help="The configuration file.",
)

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def loaded_policy(path: Path) -> Configuration:
    """Load a file. Raises ConfigurationError with every problem, and CannotStart for a missing file."""
    must_exist(path)
    return load_configuration(path)


def must_exist(path: Path) -> None:
    """Raise CannotStart with a hint for new users if the default configuration file is missing."""
    if path == DEFAULT_CONFIGURATION and not path.exists():
        raise CannotStart(
            f"{path} does not exist; write it with 'gateway init', choose another file with --config or "
            "GATEWAY_CONFIG, or try 'gateway demo' first"
        )


class Findings(NamedTuple):
    """The result for one file. `configuration` is None if it has problems."""

    configuration: Configuration | None
    problems: tuple[Problem, ...]
    warnings: tuple[Problem, ...]


def examined(path: Path, *, to_serve: bool = False) -> Findings:
    """Examine a file. Raises CannotStart if it cannot be read.

    `to_serve`: also require optional dependencies, which other commands do not need.
    """
    must_exist(path)
    try:
        configuration = load_configuration(path)
    except ConfigurationError as error:
        # Read the file again for its warnings, so that they can be fixed together with the problems.
        draft = read_settings(path, os.environ)
        others = _problems(draft.settings, to_serve=to_serve) if draft.settings is not None else ()
        return Findings(None, (*error.problems, *others), draft.warnings)
    problems = _problems(configuration.settings, to_serve=to_serve)
    return Findings(None if problems else configuration, problems, configuration.warnings)


def _problems(settings: Settings, *, to_serve: bool) -> tuple[Problem, ...]:
    """Problems outside of the file: the keys, and with `to_serve` optional dependencies and files of the database."""
    # Imported here: cryptography adds 60 ms to the start of commands that need only the policy.
    from gateway.identity.signing_keys import key_problems

    needed = (*missing_extras(settings), *unusable_files(settings), *_certificates(settings)) if to_serve else ()
    return (*key_problems(settings), *page_problems(settings), *needed)


def _certificates(settings: Settings) -> tuple[Problem, ...]:
    if settings.server.tls is None:
        return ()
    from gateway.server.certificates import certificate_problems  # Imported here, as above.

    return certificate_problems(settings)


def page_problems(settings: Settings) -> tuple[Problem, ...]:
    """The problems of texts and templates."""
    if settings.accounts.pages is None:
        return ()
    # Imported here: most configurations have no pages.
    from gateway.api.pages.examples import check_templates
    from gateway.api.pages.rendering import Renderer, open_catalogue

    try:
        catalogue = open_catalogue(settings)
        renderer = Renderer.of(settings, catalogue)
        if settings.accounts.pages.templates is not None:
            check_templates(renderer, catalogue)
    except ConfigurationError as error:
        return error.problems
    return ()


def loaded(path: Path, *, to_serve: bool = False) -> Configuration:
    """Load a file. Raises ConfigurationError with every problem, and CannotStart for a missing file."""
    findings = examined(path, to_serve=to_serve)
    if findings.configuration is None:
        raise ConfigurationError(findings.problems)
    return findings.configuration
