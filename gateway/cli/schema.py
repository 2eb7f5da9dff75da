"""`gateway schema`: what an editor needs to complete and check a configuration file."""

import click

from gateway.cli.output import print_json
from gateway.settings.schema import json_schema


@click.command("schema")
def command() -> None:
    """Print the JSON Schema of the configuration file, for editors."""
    print_json(json_schema())
