"""`gateway schema`: JSON Schemas with which editors complete and check configuration files and policy tests."""

import click

from gateway.analysis.policy_tests import policy_tests_schema
from gateway.cli.output import print_json
from gateway.settings.schema import json_schema


@click.command("schema")
@click.option("--tests", is_flag=True, help="Print the schema of policy tests, for 'gateway test'.")
def command(tests: bool) -> None:
    """Print the JSON Schema of the configuration file, for editors."""
    print_json(policy_tests_schema() if tests else json_schema())
