"""`gateway matrix`: a table of routes and the roles that can use them."""

import csv
import io
import json
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import click

from gateway.analysis.describe import label_of, methods_of
from gateway.analysis.matrix import Cell, Matrix, Row, matrix, roles_of
from gateway.cli.configuration import config_option, loaded_policy
from gateway.cli.explain_json import route_document
from gateway.cli.matrix_svg import as_svg, compared_as_svg
from gateway.cli.output import say
from gateway.observability.escaping import printable
from gateway.policy.loader import Configuration
from gateway.policy.roles import RoleHierarchy
from gateway.policy.route import Route

_WIDEST_ROUTE: Final = 40
_NARROWEST_ROUTE: Final = 24
_GAP: Final = 2
_PIECES: Final = re.compile(r"/[^/]*|[^/, ]+[, ]?").findall
_SHORT: Final = {"yes": "yes", "owner": "own", "no": "-"}
_COLOURS: Final = {"yes": "green", "owner": "yellow", "together": "yellow", "no": None}


def as_text(table: Matrix) -> Iterator[str]:
    """A table as wide as the terminal, or 80 columns. Roles that do not fit continue in further tables below."""
    notes = _Notes()
    columns = _columns(table)
    labels = [label_of(row.route) for row in table.rows]
    widths = [_width(name, cells, notes) for name, cells in columns]
    available = shutil.get_terminal_size((80, 24)).columns
    longest = max((len(label) for label in labels), default=0)
    # Folding a path is better than splitting the roles of a route.
    first = min(longest, max(_NARROWEST_ROUTE, min(_WIDEST_ROUTE, available - sum(widths) - _GAP * len(widths))))
    for block in _blocks(widths, available - first):
        yield from _block_of_text(table, labels, first, block, notes)
        yield ""
    yield from notes.lines(table)


def as_markdown(table: Matrix) -> Iterator[str]:
    columns = _columns(table)
    yield f"| route | {' | '.join(map(_escaped, (name for name, _ in columns)))} |"
    yield f"|---|{'---|' * len(columns)}"
    for number, row in enumerate(table.rows):
        cells = [_in_words(cells[number]) for _, cells in columns]
        yield f"| `{_escaped(label_of(row.route))}` | {' | '.join(map(_escaped, cells))} |"


def as_csv(table: Matrix) -> Iterator[str]:
    """One row per route (RFC 4180, but with bare line feeds)."""
    columns = _columns(table)
    yield _csv_line(["route", "methods", "host", "path", "file", "line", *(name for name, _ in columns)])
    for number, row in enumerate(table.rows):
        yield _csv_line([*_facts(row.route), *(_in_words(cells[number]) for _, cells in columns)])


def as_json(table: Matrix) -> Iterator[str]:
    rows = [_row_document(table, row) for row in table.rows]
    yield json.dumps({"roles": list(table.roles), "routes": rows}, indent=2, ensure_ascii=False)


def _columns(table: Matrix) -> list[tuple[str, list[Cell]]]:
    named = [(role, [row.roles[number] for row in table.rows]) for number, role in enumerate(table.roles)]
    anonymous, signed_in = [row.anonymous for row in table.rows], [row.signed_in for row in table.rows]
    return [("anonymous", anonymous), ("signed in", signed_in), *named]


def _in_words(cell: Cell) -> str:
    owner = "owner, or " if cell.owner else ""
    words: str = cell.access
    if cell.access == "together":
        words = f"{owner}with {(' or ' if cell.any_will_do else ' and ').join(cell.needs)}"
    return ", ".join((words, *cell.conditions))


# ---- text


class _Notes:
    """Footnotes for required roles and conditions, which are too long for a cell."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def short(self, cell: Cell) -> str:
        if cell.access == "together":
            return self._number(_in_words(cell))
        short = _SHORT[cell.access]
        return f"{short} {self._number(', '.join(cell.conditions))}" if cell.conditions else short

    def _number(self, words: str) -> str:
        return f"({self._numbers.setdefault(words, len(self._numbers) + 1)})"

    def lines(self, table: Matrix) -> Iterator[str]:
        yield "yes: allowed   -: refused"
        if any(cell.owner for row in table.rows for cell in (row.signed_in, *row.roles)):
            yield "own: only the user whose id is in the path"
        for words, number in self._numbers.items():
            yield f"({number}): {printable(words)}"


def _width(name: str, cells: Sequence[Cell], notes: _Notes) -> int:
    return max(len(name), *(len(notes.short(cell)) for cell in cells), 0)


def _blocks(widths: Sequence[int], available: int) -> Iterator[list[int]]:
    """Column numbers in groups that fit beside the routes. A column that is too wide has a group of its own."""
    block: list[int] = []
    used = 0
    for number, width in enumerate(widths):
        if block and used + _GAP + width > available:
            yield block
            block, used = [], 0
        block.append(number)
        used += _GAP + width
    yield block


def _folded(label: str, width: int) -> Iterator[str]:
    """Split a label into lines, after a segment or a method."""
    line = ""
    for piece in _PIECES(label):
        if line.strip() and len(line) + len(piece) > width:
            yield line.rstrip()
            line = "  "
        line += piece
    yield line


def _block_of_text(table: Matrix, labels: list[str], first: int, block: list[int], notes: _Notes) -> Iterator[str]:
    columns = [_columns(table)[number] for number in block]
    widths = [_width(name, cells, notes) for name, cells in columns]
    heads = [printable(name).ljust(width) for (name, _), width in zip(columns, widths, strict=True)]
    yield click.style("  ".join(["route".ljust(first), *heads]).rstrip(), bold=True)
    for number, label in enumerate(labels):
        head, *more = _folded(label, first)
        cells = [_shown(cells[number], width, notes) for (_, cells), width in zip(columns, widths, strict=True)]
        yield "  ".join([head.ljust(first), *cells]).rstrip()
        yield from more


def _shown(cell: Cell, width: int, notes: _Notes) -> str:
    text = notes.short(cell)
    colour = _COLOURS[cell.access]
    return (click.style(text, fg=colour) if colour else text) + " " * (width - len(text))


# ---- the other forms


def _escaped(text: str) -> str:
    """Escape a text for a cell of a Markdown table, where only the bar is special."""
    return printable(text).replace("|", "\\|")


def _csv_line(values: Sequence[str]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(values)
    return line.getvalue()


def _facts(route: Route) -> list[str]:
    position = route.position
    methods = "" if route.methods is None else " ".join(methods_of(route))
    host = "" if route.host is None else route.host.decode()
    return [
        route.name, methods, host, route.pattern,
        position.file if position else "", str(position.line) if position else "",
    ]  # fmt: skip


def _row_document(table: Matrix, row: Row) -> dict[str, Any]:
    return {
        **route_document(row.route),
        "access": {
            "anonymous": _cell_document(row.anonymous),
            "signed_in": _cell_document(row.signed_in),
            "roles": {role: _cell_document(cell) for role, cell in zip(table.roles, row.roles, strict=True)},
        },
    }


def _cell_document(cell: Cell) -> dict[str, Any]:
    return {
        "access": cell.access,
        "owner": cell.owner,
        "needs_all": [] if cell.any_will_do else list(cell.needs),
        "needs_any": list(cell.needs) if cell.any_will_do else [],
    }


_FORMATS: Final[dict[str, Callable[[Matrix], Iterator[str]]]] = {
    "text": as_text,
    "markdown": as_markdown,
    "csv": as_csv,
    "json": as_json,
    "svg": as_svg,
}


@click.command("matrix")
@config_option
@click.option(
    "--format", "form", type=click.Choice(list(_FORMATS)), default="text", show_default=True, help="The output format."
)
@click.option(
    "--against",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Mark the changes from the configuration in FILE; with --format svg.",
)
@click.option("--own", is_flag=True, help="Include the gateway's own endpoints.")
def command(config: Path, form: str, against: Path | None, own: bool) -> None:
    """Show who can reach what: routes by roles.

    The column of a role stands for a caller with this role, the roles it implies, and no others. Shadow rules decide
    nothing and are left out. The svg format is a picture, for example of a change: gateway matrix --config after.yaml
    --against before.yaml --format svg > change.svg
    """
    if against is not None and form != "svg":
        raise click.UsageError("--against needs --format svg; gateway diff compares as text")
    after = loaded_policy(config)
    before = None if against is None else loaded_policy(against)
    roles = list(roles_of(after.settings, _routes(after, own=own)))
    if before is None:
        lines = _FORMATS[form](_matrix(after, roles, own=own))
    else:
        roles += [role for role in roles_of(before.settings, _routes(before, own=own)) if role not in roles]
        lines = compared_as_svg(_matrix(before, roles, own=own), _matrix(after, roles, own=own))
    for line in lines:
        say(line)


def _routes(configuration: Configuration, *, own: bool) -> list[Route]:
    routes = [route for route in configuration.policy.routes if not route.shadow]
    return routes + [route for route in configuration.policy.own if own and route.is_served]


def _matrix(configuration: Configuration, roles: Sequence[str], *, own: bool) -> Matrix:
    hierarchy = RoleHierarchy(configuration.settings.roles)
    return matrix(_routes(configuration, own=own), tuple(roles), hierarchy)
