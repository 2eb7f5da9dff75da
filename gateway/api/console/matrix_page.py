"""The access matrix: routes by roles, as a coloured table, and its changes against the file on disk."""

from collections.abc import Iterable, Sequence
from html import escape
from typing import Final, NamedTuple

from gateway.analysis.describe import caller, callers_in_words, label_of, methods
from gateway.analysis.diff import Difference, PolicyDiff, compare
from gateway.analysis.matrix import AlignedRow, Cell, Matrix, aligned, cell_words, matrix, named_roles, roles_of
from gateway.api.console import pages
from gateway.api.console.pages import Column, Part
from gateway.errors import CannotStart, ConfigurationError
from gateway.policy.loader import Configuration
from gateway.policy.roles import RoleHierarchy
from gateway.policy.route import Route

MOST_COMPARED: Final = 2000  # routes; the comparison of more takes seconds
_MOST_ROLES: Final = 50  # columns: each cell is a decision
_MOST_DIFFERENCES: Final = 200
_MOST_PROBLEMS: Final = 20
_STYLES: Final = {"yes": "m-yes", "no": "m-no", "owner": "m-part", "together": "m-part"}
_LEGEND: Final = (
    ("m-yes", "✓", "allowed"),
    ("m-no", "–", "refused"),
    ("m-part", "◐ own", "only where the path contains their own id"),
    ("m-part", "+ role", "only together with this role"),
)


class FileOnDisk(NamedTuple):
    """The file that the gateway has read, as it is now. `configuration` is None if it cannot be used, because of
    `problem`. `name` is empty if it is unknown."""

    name: str
    configuration: Configuration | None
    problem: str = ""


def matrix_view(configuration: Configuration, number: int, text: str, disk: FileOnDisk | None) -> str:
    """Build one page of the matrix, of the routes that contain `text`. `disk` is the file to compare with."""
    new = None if disk is None else disk.configuration
    old_routes, new_routes = _routes(configuration, text), [] if new is None else _routes(new, text)
    columns, hidden = _roles(configuration, new, old_routes, new_routes, number)
    if new is None:
        part = Part.of(number, len(old_routes))
        table = _matrix_of(configuration, old_routes[part.rows], columns)
        rows = [AlignedRow(row, row) for row in table.rows]
    else:
        every = aligned(_matrix_of(configuration, old_routes, columns), _matrix_of(new, new_routes, columns))
        part = Part.of(number, len(every))
        rows = every[part.rows]
    fields = {"q": text, "compare": "" if disk is None else "1"}
    return (
        pages.heading("Who can reach what", _aside(text, disk))
        + ("" if disk is None else _comparison(configuration, disk))
        + _filter(text, disk)
        + f'<section class="card">{_table(rows, columns)}{pages.turning("matrix", part, **fields)}'
        + f"{_rest(hidden)}{_legend(is_compared=new is not None)}</section>"
    )


def _routes(configuration: Configuration, text: str) -> list[Route]:
    wanted = text.lower()
    routes = [route for route in configuration.policy.routes if not route.shadow]
    return [route for route in routes if wanted in label_of(route).lower() or wanted in route.name.lower()]


def _roles(
    configuration: Configuration,
    new: Configuration | None,
    old_routes: list[Route],
    new_routes: list[Route],
    number: int,
) -> tuple[tuple[str, ...], int]:
    """The roles with a column, and the number of the others."""
    roles = list(roles_of(configuration.settings, old_routes))
    if new is not None:
        roles += [role for role in roles_of(new.settings, new_routes) if role not in roles]
    if len(roles) <= _MOST_ROLES:
        return tuple(roles), 0
    shown = named_roles((old_routes or new_routes)[Part.of(number, len(old_routes)).rows])[:_MOST_ROLES]
    return shown, len(roles) - len(shown)


def _matrix_of(configuration: Configuration, routes: Iterable[Route], roles: tuple[str, ...]) -> Matrix:
    return matrix(routes, roles, RoleHierarchy(configuration.settings.roles))


# ---- the table


def _table(rows: Sequence[AlignedRow], roles: Sequence[str]) -> str:
    titles = ("Route", "anonymous", "signed in", *roles)
    head = "".join(f"<th scope=col>{escape(title)}</th>" for title in titles)
    body = "".join(_row(row) for row in rows)
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="Access matrix"><table class="matrix">'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _row(row: AlignedRow) -> str:
    route = row.route
    mark = "" if row.old is not None and row.new is not None else pages.tag("+ added", "warn")
    mark = pages.tag("− removed", "bad") if row.new is None else mark
    label = f"<code>{escape(label_of(route))}</code>"
    if row.old is not None:
        label = f'<a href="{pages.link("route", name=row.old.route.name)}">{label}</a>'
    cells = "".join(_cell(before, after) for before, after in row.cells)
    who = f'<br><span class="soft small">{escape(callers_in_words(route))}</span>'
    return f"<tr><th scope=row>{label} {mark}{who}</th>{cells}</tr>"


def _cell(before: Cell | None, after: Cell | None) -> str:
    shown = after or before
    assert shown is not None
    if before is None or after is None or before == after:
        return f'<td class="{_STYLES[shown.access]}">{_words(shown)}</td>'
    return f'<td class="{_STYLES[after.access]} changed"><s>{_words(before)}</s><br>{_words(after)}</td>'


def _words(cell: Cell) -> str:
    return escape(cell_words(cell))


def _legend(*, is_compared: bool) -> str:
    items = "".join(f'<span><span class="{style}">{sign}</span>{text}</span>' for style, sign, text in _LEGEND)
    changed = '<span><span class="changed"><s>–</s> ✓</span>changed by the file</span>' if is_compared else ""
    return f'<p class="legend-row">{items}{changed}</p>'


def _rest(hidden: int) -> str:
    return f"<p>{hidden} more roles: <code>gateway matrix</code> shows them.</p>" if hidden else ""


def _filter(text: str, disk: FileOnDisk | None) -> str:
    kept = '<input type="hidden" name="compare" value="1">' if disk is not None else ""
    return (
        f'<form class="filters" method="get" action="{pages.PATH}"><input type="hidden" name="view" value="matrix">'
        f'{kept}<label class="wide">Search<input name="q" value="{escape(text)}" placeholder="path or name"></label>'
        '<button class="primary">Apply</button></form>'
    )


def _aside(text: str, disk: FileOnDisk | None) -> str:
    if disk is None:
        return f'<a href="{pages.link("matrix", q=text, compare="1")}">Compare with the file on disk</a>'
    return f'<a href="{pages.link("matrix", q=text)}">Show the policy in force only</a>'


# ---- the comparison


def _comparison(configuration: Configuration, disk: FileOnDisk) -> str:
    if disk.configuration is None:
        return pages.alert(disk.problem)
    found = compare(configuration, disk.configuration)
    title = f"A reload of {disk.name} would change"
    rows = list(_differences(found))
    if not rows:
        return pages.card(title, "<p>Nothing about access, routes or upstreams.</p>" + _also(found))
    columns = (Column("Requests"), Column("Change"), Column("For"), Column("Before"), Column("After"))
    more = len(rows) - _MOST_DIFFERENCES
    rest = f"<p>{more} more: <code>gateway diff</code> shows them.</p>" if more > 0 else ""
    return pages.card(title, pages.table(columns, rows[:_MOST_DIFFERENCES], "Differences") + rest + _also(found))


def _differences(found: PolicyDiff) -> Iterable[list[str]]:
    for each in found.differences:
        named = methods(each.methods, each.except_methods)
        where = f"<code>{escape(f'{named} {each.host or str()}{each.path}')}</code>"
        sides = [escape(callers_in_words(side.route, side.code)) for side in (each.old, each.new)]
        for kind, text in _effects(each):
            yield [where, kind, escape(text), *sides]
    for host in found.opened_hosts:
        yield ["server.hosts", pages.tag("opens", "bad"), escape(host), "", ""]
    for host in found.closed_hosts:
        yield ["server.hosts", pages.tag("closes", "warn"), escape(host), "", ""]
    if found.opened_paths or found.closed_paths:
        yield [
            "server.paths",
            pages.tag("opens", "bad") if found.opened_paths else pages.tag("closes", "warn"),
            "",
            "",
            "",
        ]
    for change in found.upstreams:
        name = f"upstream <code>{escape(change.key)}</code>"
        yield [name, pages.tag("changes"), "", escape(change.old), escape(change.new)]


def _effects(difference: Difference) -> Iterable[tuple[str, str]]:
    routes = (difference.old.route, difference.new.route)
    for kind, style, reaches in (("opens", "bad", difference.opens), ("closes", "warn", difference.closes)):
        for reach in reaches:
            who = "; ".join(caller(each, *routes) for each in reach.callers)
            yield pages.tag(kind, style), who if reach.kind == "requests" else f"{who} ({reach.kind})"
    if difference.moves is not None:
        yield pages.tag("moves"), f"{difference.moves.old} → {difference.moves.new}"
    for change in difference.changes:
        yield pages.tag("changes"), f"{change.key}: {change.old} → {change.new}"


def _also(found: PolicyDiff) -> str:
    return f"<p>Also different: {escape(', '.join(found.also))}</p>" if found.also else ""


def problems_of(name: str, error: ConfigurationError | CannotStart) -> FileOnDisk:
    """The result for a file that the gateway would refuse."""
    if isinstance(error, CannotStart):
        return FileOnDisk(name, None, str(error))
    problems = [str(problem) for problem in error.problems[:_MOST_PROBLEMS]]
    return FileOnDisk(name, None, f"{name} has problems, so a reload would be refused: {'; '.join(problems)}")
