"""`gateway routes`: draft routes."""

from collections import Counter
from pathlib import Path
from typing import get_args

import click

from gateway.analysis.openapi.draft import Openness, PolicyDraft, as_yaml, draft
from gateway.analysis.openapi.spec import read_spec
from gateway.cli.output import complain, say, warn
from gateway.cli.program import FINE, NO
from gateway.settings.reader import InvalidValue
from gateway.settings.syntax import name


@click.group("routes")
def command() -> None:
    """Draft routes from the description of an API."""


@command.command("from-openapi")
@click.argument("spec", type=click.Path(path_type=Path))
@click.option("--upstream", required=True, metavar="NAME", help="The upstream that serves the API.")
@click.option("--require-security", is_flag=True, help="Fail if a route is open to requests without a credential.")
def from_openapi(spec: Path, upstream: str, require_security: bool) -> int:
    """Draft routes from an OpenAPI document.

    Reads version 3.0 or 3.1, in YAML or JSON. Scopes become roles. Standard output is a configuration that 'gateway
    check' accepts. Standard error lists the operations that are left out or have stricter rules than the document, and
    counts open routes. With --require-security, the exit code is 1 if any route is open.
    """
    try:
        name(upstream)
    except InvalidValue as error:
        raise click.UsageError(f"--upstream: {error.message} ({error.right}).") from None
    document = read_spec(spec)
    drafted = draft(document)
    _show_remarks(drafted)
    click.echo(as_yaml(drafted, spec=document, upstream=upstream), nl=False)
    say(_summary(drafted), err=True)
    if not require_security or not drafted.open_routes:
        return FINE
    for route in drafted.open_routes:
        complain(f"{route.method} {route.path} is {route.openness}")
    return NO


def _show_remarks(drafted: PolicyDraft) -> None:
    for remark in drafted.remarks:
        warn(remark)
    for route in drafted.routes:
        for remark in route.remarks:
            warn(f"{route.method} {route.path}: {remark}")


def _summary(drafted: PolicyDraft) -> str:
    """One line, most open kinds first."""
    counts = Counter(route.openness for route in drafted.routes)
    parts = [f"{counts[kind]} {kind}" for kind in get_args(Openness) if counts[kind]]
    left_out = f"; {drafted.left_out} left out" if drafted.left_out else ""
    return f"gateway: routes: {', '.join(parts) or 'none'}{left_out}"
