"""Options shared by several commands."""

from pathlib import Path
from typing import Final

import click

DEFAULT_CONFIGURATION: Final = Path("config/gateway.yaml")

config_option = click.option(
    "--config",
    "config",
    metavar="FILE",
    type=click.Path(path_type=Path),
    envvar="GATEWAY_CONFIG",
    default=DEFAULT_CONFIGURATION,
    show_default=True,
    show_envvar=True,
    help="The configuration file.",
)

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
