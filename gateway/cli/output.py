"""What commands print: lines, tables and JSON. Coloured on a terminal only, and never with NO_COLOR."""

import json
import os
import sys
from collections.abc import Sequence

import click


def say(text: str = "", *, err: bool = False, colour: str | None = None) -> None:
    """Print a line, on a terminal in a colour of click's (`red`), where colour is wanted."""
    # https://no-color.org: any value but the empty one turns colour off; None lets the terminal decide.
    wanted = False if os.environ.get("NO_COLOR") else None
    click.echo(click.style(text, fg=colour) if colour else text, err=err, color=wanted)


def complain(message: str) -> None:
    """One line on standard error, whatever the message holds."""
    say(f"gateway: {' '.join(message.split())}", err=True, colour="red")


def warn(message: str) -> None:
    """One line on standard error about something legal that deserves a look."""
    say(f"gateway: warning: {' '.join(message.split())}", err=True, colour="yellow")


def print_json(value: object) -> None:
    """The answer for a program: one JSON document."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """The answer for a person: aligned columns. Nothing is ever cut off."""
    if sys.stdout.isatty():
        _print_for_eyes(columns, rows)
        return
    # Into a pipe a row is one line, however long: whoever takes columns apart there counts on that.
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
    for row in (columns, *rows):
        click.echo("  ".join(map(str.ljust, row, widths)).rstrip())


def _print_for_eyes(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    # Imported here: rich takes longer than most commands, and only a terminal has use for it.
    from rich import box
    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

    table = Table(*(Column(name, overflow="fold") for name in columns), box=box.SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        # Text, not str: a name that holds rich's markup is a name, not markup.
        table.add_row(*map(Text, row))
    Console().print(table)
