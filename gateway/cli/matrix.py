"""`gateway matrix`: who can reach what, as a table for a person, a review, a spreadsheet or a program."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import click

from gateway.cli.matrix_formats import as_csv, as_json, as_markdown, as_text
from gateway.cli.options import config_option
from gateway.cli.output import say
from gateway.cli.policy_file import loaded_policy
from gateway.policy.hierarchy import RoleHierarchy
from gateway.policy.matrix import Matrix, matrix, roles_of

_FORMATS: Final[dict[str, Callable[[Matrix], Iterator[str]]]] = {
    "text": as_text,
    "markdown": as_markdown,
    "csv": as_csv,
    "json": as_json,
}


@click.command("matrix")
@config_option
@click.option(
    "--format", "form", type=click.Choice(list(_FORMATS)), default="text", show_default=True, help="How it is written."
)
@click.option("--own", is_flag=True, help="The gateway's own endpoints as well.")
def command(config: Path, form: str, own: bool) -> None:
    """Show who can reach what: routes by roles.

    A role's column is somebody who has that role, all that it implies, and no other. Shadow rules decide nothing and
    are left out.
    """
    configuration = loaded_policy(config)
    settings, policy = configuration.settings, configuration.policy
    routes = [route for route in policy.routes if not route.shadow]
    routes += [route for route in policy.own if own and route.is_served]
    table = matrix(routes, roles_of(settings, routes), RoleHierarchy(settings.roles))
    for line in _FORMATS[form](table):
        say(line)
