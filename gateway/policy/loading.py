"""A configuration file -> settings and the policy made of them, or every problem at once."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gateway.errors import ConfigurationError, Problem
from gateway.policy.building import RouteBuilder
from gateway.policy.matcher import Policy
from gateway.policy.own import operations_routes, own_routes
from gateway.policy.shadows import shadows_of
from gateway.settings.model import RouteSettings, Settings
from gateway.settings.reading import read_settings

# Steps that the search for one path may take at most, whatever the path: about 0.1 ms.
_MOST_VISITS: Final = 1000


@dataclass(frozen=True, slots=True)
class Configuration:
    """A configuration that holds: its settings, its policy, and what is legal in it but dangerous."""

    settings: Settings
    policy: Policy
    warnings: tuple[Problem, ...]


def load_configuration(path: Path, environment: Mapping[str, str] | None = None) -> Configuration:
    """Read a file whole. `environment` is where `${NAME}` is looked up, that of the process by default.

    Raises ConfigurationError with every problem of the settings and of the policy, and CannotStart where
    the file cannot be read at all.
    """
    draft = read_settings(path, os.environ if environment is None else environment)
    policy, problems = _compile(draft.sketch, draft.routes)
    if draft.settings is None or problems:
        raise ConfigurationError((*draft.problems, *problems))
    return Configuration(draft.settings, policy, draft.warnings)


def compile_policy(settings: Settings) -> Policy:
    """The policy of settings that were read. Raises ConfigurationError with the problems of their routes."""
    policy, problems = _compile(settings, settings.routes)
    if problems:
        raise ConfigurationError(problems)
    return policy


def operations_policy(settings: Settings) -> Policy:
    """The policy of `server.operations_port`: the gateway's operations, and nothing of the file."""
    return Policy((), operations_routes(settings))


def _compile(settings: Settings, routes: tuple[RouteSettings, ...]) -> tuple[Policy, list[Problem]]:
    own = own_routes(settings)
    builder = RouteBuilder(settings, own)
    policy = Policy(builder.build(routes), own, relaxed=settings.server.paths == "relaxed")
    shadows = shadows_of(policy)
    trial = () if shadows is None else shadows.trial.entangled(_MOST_VISITS)
    for route, visits in (*policy.entangled(_MOST_VISITS), *trial):
        key = route.settings.key if route.settings is not None else "routes"
        builder.report(
            f"{key}.path",
            f"and others like it mix literals and captures so that one request could take {visits} steps "
            f"to match (at most {_MOST_VISITS}; begin such paths with different literals)",
        )
    return policy, builder.problems
