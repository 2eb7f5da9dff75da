"""`gateway schema`: what an editor needs to complete and check a configuration file, or a file of policy tests."""

import click

from gateway.cli.output import print_json
from gateway.policy.policy_tests import policy_tests_schema
from gateway.settings.schema import json_schema


@click.command("schema")
@click.option("--tests", is_flag=True, help="That of policy tests, for 'gateway test'.")
def command(tests: bool) -> None:
    """Print the JSON Schema of the configuration file, for editors."""
    print_json(policy_tests_schema() if tests else json_schema())
