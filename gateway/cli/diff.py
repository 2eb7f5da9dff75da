"""`gateway diff`: compare two configurations and show which access the change opens and closes."""

from pathlib import Path
from typing import Literal

import click

from gateway.analysis.diff import compare
from gateway.cli.configuration import loaded_policy
from gateway.cli.diff_output import as_json as json_of
from gateway.cli.diff_output import as_markdown, show
from gateway.cli.options import json_option
from gateway.cli.output import print_json
from gateway.cli.program import FINE, NO

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
    help="markdown suits a review comment.",
)
@json_option
def command(old: Path, new: Path, form: Format, as_json: bool) -> int:
    """Show which access a change of the configuration opens or closes.

    OLD and NEW are two configuration files. The comparison covers every request and every kind of caller, without
    sampling. Exit code 1 if the change opens access for any kind of caller.
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
