"""Load a configuration file: settings and the compiled policy, or all problems at once."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gateway.errors import ConfigurationError, Problem
from gateway.policy.browsers import browser_policy
from gateway.policy.builtin_routes import colliding_page, is_page, operations_routes, own_routes
from gateway.policy.compiler import RouteBuilder
from gateway.policy.policy import Policy
from gateway.policy.shadow import Shadows, shadows_of
from gateway.settings.loader import read_settings
from gateway.settings.model import RouteSettings, Settings
from gateway.wire.hosts import ServedHosts

# The most steps that matching one path can take: about 0.1 ms.
_MOST_VISITS: Final = 1000


@dataclass(frozen=True, slots=True)
class Configuration:
    """A valid configuration: settings, policy, and warnings. `shadows` is None if no route is a shadow rule."""

    settings: Settings
    policy: Policy
    warnings: tuple[Problem, ...]
    shadows: Shadows | None = None


def load_configuration(path: Path, environment: Mapping[str, str] | None = None) -> Configuration:
    """Load a configuration file. `environment` provides `${NAME}` values; defaults to the process environment.

    Raises ConfigurationError with every problem of settings and policy, and CannotStart if the file is unreadable.
    """
    draft = read_settings(path, os.environ if environment is None else environment)
    policy, shadows, problems = _compile(draft.sketch, draft.routes)
    if draft.settings is None or problems:
        raise ConfigurationError((*draft.problems, *problems))
    return Configuration(draft.settings, policy, draft.warnings, shadows)


def compile_policy(settings: Settings) -> Policy:
    """The policy of parsed settings. Raises ConfigurationError with the problems of their routes."""
    policy, _, problems = _compile(settings, settings.routes)
    if problems:
        raise ConfigurationError(problems)
    return policy


def operations_policy(settings: Settings) -> Policy:
    """The policy of the `server.operations_port` listener: the operational endpoints only."""
    return Policy((), operations_routes(settings))


def _compile(settings: Settings, routes: tuple[RouteSettings, ...]) -> tuple[Policy, Shadows | None, list[Problem]]:
    own = own_routes(settings)
    collision = colliding_page(own)
    if collision is not None:
        own = tuple(route for route in own if not is_page(route))
    builder = RouteBuilder(settings, own)
    if collision is not None:
        page, other = collision
        found = f"found a page at '{page.pattern}', where {other.name} is"
        builder.report("accounts.pages.path", f"must keep clear of the gateway's other paths, {found} (another path)")
    policy = Policy(
        builder.build(routes),
        own,
        relaxed=settings.server.paths == "relaxed",
        served=ServedHosts(settings.server.hosts) if settings.server.hosts else None,
        browsers=browser_policy(settings),
    )
    shadows = shadows_of(policy)
    trial = () if shadows is None else shadows.shadow_policy.entangled(_MOST_VISITS)
    for route, visits in (*policy.entangled(_MOST_VISITS), *trial):
        key = route.settings.key if route.settings is not None else "routes"
        builder.report(
            f"{key}.path",
            f"and others like it mix literals and captures so that one request could take {visits} steps "
            f"to match (at most {_MOST_VISITS}; begin such paths with different literals)",
        )
    return policy, shadows, builder.problems
