"""`gateway routes`: drafts of routes."""

from pathlib import Path

import click

from gateway.cli.output import warn
from gateway.drafts.drafting import as_yaml, draft
from gateway.drafts.spec import read_spec
from gateway.settings.grammar import name
from gateway.settings.reader import Unacceptable


@click.group("routes")
def command() -> None:
    """Draft routes from what an API says of itself."""


@command.command("from-openapi")
@click.argument("spec", type=click.Path(path_type=Path))
@click.option("--upstream", required=True, metavar="NAME", help="The upstream that serves the API.")
def from_openapi(spec: Path, upstream: str) -> None:
    """Draft routes from an OpenAPI 3.0 or 3.1 document, in YAML or JSON.

    Security schemes and scopes become roles, and what a policy cannot say becomes a comment, said on standard error as
    well. What is printed is a configuration that 'gateway check' accepts.
    """
    try:
        name(upstream)
    except Unacceptable as error:
        raise click.UsageError(f"--upstream: {error.message} ({error.right}).") from None
    document = read_spec(spec)
    drafted = draft(document)
    for remark in drafted.remarks:
        warn(remark)
    for route in drafted.routes:
        for remark in route.remarks:
            warn(f"{route.method} {route.path}: {remark}")
    click.echo(as_yaml(drafted, spec=document, upstream=upstream), nl=False)
