"""Output of commands: lines, tables and JSON. Colours are for terminals only, and NO_COLOR disables them."""

import json
import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext, suppress

import click


def say(text: str = "", *, err: bool = False, colour: str | None = None) -> None:
    """Print a line. `colour` is a colour of click (`red`), used on terminals only."""
    # https://no-color.org: any non-empty value disables colour. None leaves the choice to the terminal.
    coloured = False if os.environ.get("NO_COLOR") else None
    # A full disk behind standard error must not keep `serve` from starting, nor change an exit code.
    with suppress(OSError) if err else nullcontext():
        click.echo(click.style(text, fg=colour) if colour else text, err=err, color=coloured)


def complain(message: str) -> None:
    """Print one line on standard error. Line breaks in the message become spaces."""
    say(f"gateway: {' '.join(message.split())}", err=True, colour="red")


def warn(message: str) -> None:
    """Print one line on standard error about something legal but suspicious."""
    say(f"gateway: warning: {' '.join(message.split())}", err=True, colour="yellow")


def print_json(value: object) -> None:
    """Print one JSON document."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print aligned columns without truncation."""
    if sys.stdout.isatty():
        _print_for_eyes(columns, rows)
        return
    # In a pipe, each row stays on one line for programs that split columns.
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
    for row in (columns, *rows):
        click.echo("  ".join(map(str.ljust, row, widths)).rstrip())


def _print_for_eyes(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    # Imported here: rich takes longer to import than most commands run, and only terminals need it.
    from rich import box
    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

    table = Table(*(Column(name, overflow="fold") for name in columns), box=box.SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        # Text instead of str, because a name can contain rich's markup.
        table.add_row(*map(Text, row))
    Console().print(table)
