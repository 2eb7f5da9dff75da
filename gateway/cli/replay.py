"""`gateway replay`: apply a policy to recorded requests and show the changed decisions."""

import gzip
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import click

from gateway.analysis.replay import Example, Group, Replay, ReplayedChange, ReplayReport
from gateway.cli.configuration import config_option, json_option, loaded_policy
from gateway.cli.output import print_json, say
from gateway.cli.program import FINE, NO
from gateway.errors import CannotStart, cannot_read
from gateway.observability.escaping import printable

_NOTED = 4096  # lines between two updates of the progress bar


@click.command("replay")
@click.argument("access_log", metavar="ACCESS_LOG")
@config_option
@json_option
def command(access_log: str, config: Path, as_json: bool) -> int:
    """Show the effect of a policy on recorded requests.

    ACCESS_LOG is a JSON access log; `-` reads standard input, and a name that ends in .gz is decompressed. Sends
    nothing. Exit code 1 if any decision would change, 2 if the file contains no access log.
    """
    replay = Replay(loaded_policy(config))
    with ExitStack() as stack:
        for line in _lines(access_log, stack):
            replay.line(line)
    report = replay.report
    if not report.replayed and not report.undecided:
        raise CannotStart(f"the access log {access_log} {_nothing_in(report)}")
    if as_json:
        print_json(_document(report))
    else:
        _show(report)
    return NO if report.changed else FINE


def _lines(name: str, stack: ExitStack) -> Iterable[bytes]:
    """The lines of a log. On a terminal, a progress bar is shown."""
    if name == "-":
        return sys.stdin.buffer
    path = Path(name)
    try:
        raw = stack.enter_context(path.open("rb"))
        size = os.fstat(raw.fileno()).st_size
    except OSError as error:
        raise CannotStart(f"cannot read the access log {cannot_read(path, error)}") from None
    lines: Iterable[bytes] = raw
    if path.suffix == ".gz":
        lines = stack.enter_context(gzip.GzipFile(fileobj=raw))
    return _watched(_readable(lines, path), raw, size, stack) if sys.stderr.isatty() else _readable(lines, path)


def _readable(lines: Iterable[bytes], path: Path) -> Iterator[bytes]:
    try:
        yield from lines
    except (OSError, EOFError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise CannotStart(f"cannot read the access log {path}: {reason}") from None


def _watched(lines: Iterator[bytes], raw: IO[bytes], size: int, stack: ExitStack) -> Iterator[bytes]:
    # Imported here: rich takes longer to import than most commands run, and only terminals need it.
    from rich.console import Console
    from rich.progress import Progress

    progress = stack.enter_context(Progress(console=Console(stderr=True), transient=True))
    task = progress.add_task("replaying", total=size)
    for number, line in enumerate(lines):
        if number % _NOTED == 0:
            progress.update(task, completed=raw.tell())
        yield line


def _nothing_in(report: ReplayReport) -> str:
    """The reason why a log has nothing to replay."""
    if report.unreadable:
        first = report.unreadable[0]
        return f"has no line of the gateway's JSON access log (line {first.line}: {first.reason})"
    if report.others:
        return "has no requests (it holds empty lines, or lines of the decision log)"
    return "is empty"


# ---- for a person


def _show(report: ReplayReport) -> None:
    for group, change in _ordered(report):
        _show_group(group, change)
    for line, reason in report.unreadable:
        say(f"line {line} was not replayed: {reason}", colour="yellow")
    parts = [f"{report.changed} of {report.replayed} requests would change"]
    for count, what in (
        (report.undecided, "have no decision of the policy"),
        (report.lost, "lines could not be read"),
    ):
        if count:
            parts.append(f"{count} {what}")
    say("; ".join(parts), colour="red" if report.changed else "green")


def _show_group(group: Group, change: ReplayedChange) -> None:
    routes = f"route {_named(group.old_route)}"
    if group.new_route != group.old_route:
        routes += f" -> {_named(group.new_route)}"
    decision = group.old if group.old == group.new else f"{group.old} -> {group.new}"
    say(
        printable(f"{group.method:<7} {routes}: {decision}, {change.count} request{'s' if change.count != 1 else ''}"),
        colour="red" if group.new == "allowed" and group.old != "allowed" else "yellow",
    )
    for example in change.examples:
        say(printable(f"        {example.host}{example.path} by {_caller(example)}, request {example.request_id}"))


def _named(route: str) -> str:
    return f"'{route}'" if route else "(none)"


def _caller(example: Example) -> str:
    if not example.user:
        return "an anonymous caller"
    return f"{example.user} (roles: {', '.join(example.roles) or 'none'})"


def _ordered(report: ReplayReport) -> list[tuple[Group, ReplayedChange]]:
    """Changes that allow requests first, then by frequency."""
    return sorted(report.changes.items(), key=lambda item: (item[0].new != "allowed", -item[1].count, item[0]))


# ---- for a program


def _document(report: ReplayReport) -> dict[str, Any]:
    return {
        "lines": report.lines,
        "replayed": report.replayed,
        "changed": report.changed,
        "undecided": report.undecided,
        "other_lines": report.others,
        "unreadable": report.lost,
        "unreadable_examples": [each._asdict() for each in report.unreadable],
        "changes": [
            {**group._asdict(), "count": change.count, "examples": [each._asdict() for each in change.examples]}
            for group, change in _ordered(report)
        ],
    }
