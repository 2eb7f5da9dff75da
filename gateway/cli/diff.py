"""`gateway diff`: what a change of the configuration opens and closes, for a person, a review comment, or a program."""

from pathlib import Path
from typing import Literal

import click

from gateway.cli.diff_forms import as_json as json_of
from gateway.cli.diff_forms import as_markdown, show
from gateway.cli.exit_codes import FINE, NO
from gateway.cli.options import json_option
from gateway.cli.output import print_json
from gateway.cli.policy_file import loaded_policy
from gateway.policy.diff import compare

Format = Literal["text", "markdown", "json"]


@click.command("diff")
@click.argument("old", type=click.Path(path_type=Path))
@click.argument("new", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "markdown", "json"]),
    default="text",
    show_default=True,
    help="markdown is for a review comment.",
)
@json_option
def command(old: Path, new: Path, form: Format, as_json: bool) -> int:
    """Show what a change of the configuration opens, closes and moves.

    OLD and NEW are two configuration files. Every request and every kind of caller is compared, none is sampled. Exit
    code 1 if the change opens anything: if somebody can do what nobody like him could before.
    """
    before, after = loaded_policy(old), loaded_policy(new)
    found = compare(before, after)
    if as_json or form == "json":
        print_json(json_of(found, before, after))
    elif form == "markdown":
        click.echo(as_markdown(found))
    else:
        show(found)
    return NO if found.opens else FINE
