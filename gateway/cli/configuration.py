"""How commands read the configuration: whole, and with everything that is wrong with it at once."""

import os
from dataclasses import dataclass
from pathlib import Path

from gateway.cli.policy_file import must_exist
from gateway.errors import ConfigurationError, Problem
from gateway.identity.key_loading import key_problems
from gateway.policy.loading import Configuration, load_configuration
from gateway.settings.extras import missing_extras
from gateway.settings.model import Settings
from gateway.settings.reading import read_settings
from gateway.settings.storage_folder import missing_folder


@dataclass(frozen=True, slots=True)
class Findings:
    """What one file comes to. `configuration` is None where there is a problem."""

    configuration: Configuration | None
    problems: tuple[Problem, ...]
    warnings: tuple[Problem, ...]


def examined(path: Path, *, to_serve: bool = False) -> Findings:
    """Everything that is to be said about a file. Raises CannotStart where it cannot be read at all.

    `to_serve`: optional dependencies must be installed, too. Other commands do not need them.
    """
    must_exist(path)
    try:
        configuration = load_configuration(path)
    except ConfigurationError as error:
        # The file is read once more for its warnings: a person who mends it wants to see them as well.
        draft = read_settings(path, os.environ)
        others = _problems(draft.settings, to_serve=to_serve) if draft.settings is not None else ()
        return Findings(None, (*error.problems, *others), draft.warnings)
    problems = _problems(configuration.settings, to_serve=to_serve)
    return Findings(None if problems else configuration, problems, configuration.warnings)


def _problems(settings: Settings, *, to_serve: bool) -> tuple[Problem, ...]:
    """Problems outside of the file: its keys, and to serve the dependencies and the folder that it needs."""
    return (*key_problems(settings), *((*missing_extras(settings), *missing_folder(settings)) if to_serve else ()))


def loaded(path: Path, *, to_serve: bool = False) -> Configuration:
    """The configuration of a file. Raises ConfigurationError with every problem, CannotStart without a file."""
    findings = examined(path, to_serve=to_serve)
    if findings.configuration is None:
        raise ConfigurationError(findings.problems)
    return findings.configuration
