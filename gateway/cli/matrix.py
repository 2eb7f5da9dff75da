"""`gateway matrix`: a table of routes and the roles that can use them."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import click

from gateway.analysis.matrix import Matrix, matrix, roles_of
from gateway.cli.configuration import loaded_policy
from gateway.cli.matrix_output import as_csv, as_json, as_markdown, as_text
from gateway.cli.options import config_option
from gateway.cli.output import say
from gateway.policy.roles import RoleHierarchy

_FORMATS: Final[dict[str, Callable[[Matrix], Iterator[str]]]] = {
    "text": as_text,
    "markdown": as_markdown,
    "csv": as_csv,
    "json": as_json,
}


@click.command("matrix")
@config_option
@click.option(
    "--format", "form", type=click.Choice(list(_FORMATS)), default="text", show_default=True, help="The output format."
)
@click.option("--own", is_flag=True, help="Include the gateway's own endpoints.")
def command(config: Path, form: str, own: bool) -> None:
    """Show who can reach what: routes by roles.

    The column of a role stands for a caller with this role, the roles it implies, and no others. Shadow rules decide
    nothing and are left out.
    """
    configuration = loaded_policy(config)
    settings, policy = configuration.settings, configuration.policy
    routes = [route for route in policy.routes if not route.shadow]
    routes += [route for route in policy.own if own and route.is_served]
    table = matrix(routes, roles_of(settings, routes), RoleHierarchy(settings.roles))
    for line in _FORMATS[form](table):
        say(line)
