"""Options shared by several commands."""

from pathlib import Path
from typing import Final

import click

DEFAULT_CONFIGURATION: Final = Path("config/gateway.yaml")
_BESIDE: Final = Path("gateway.yaml")  # where `gateway init` writes


def _default_configuration() -> Path:
    return _BESIDE if _BESIDE.exists() and not DEFAULT_CONFIGURATION.exists() else DEFAULT_CONFIGURATION


config_option = click.option(
    "--config",
    "config",
    metavar="FILE",
    type=click.Path(path_type=Path),
    envvar="GATEWAY_CONFIG",
    default=_default_configuration,
    show_default=f"{DEFAULT_CONFIGURATION}, or {_BESIDE}",
    show_envvar=True,
    help="The configuration file.",
)

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
