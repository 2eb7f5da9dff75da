"""The access matrix: every route against every kind of caller, decided by `authorize`.

The callers are an anonymous one, a signed-in user without roles, and for each role a user with that role and the roles
it implies. If a route needs several roles, the cell names the missing ones.
"""

from collections.abc import Iterable, Iterator
from typing import Final, Literal, NamedTuple

from gateway.analysis.describe import conditions_in_words
from gateway.analysis.simulate import Subject
from gateway.policy.decide import authorize
from gateway.policy.rewrite import Captures
from gateway.policy.roles import RoleHierarchy
from gateway.policy.route import Requirement, Route
from gateway.settings.model import Settings

# yes: allowed. owner: only if the path contains the caller's own id. together: only in combination with other roles.
Access = Literal["yes", "owner", "together", "no"]

_EXAMPLE_USER: Final = "user"
_SIGNS: Final = {"yes": "✓ yes", "owner": "◐ own", "together": "+", "no": "– no"}


class Cell(NamedTuple):
    """Access of one caller to one route. `needs` are the missing roles for `together`: all of them, or one of them with
    `any_will_do`. `owner`: the owner passes without them. `conditions` are those on the credential, in words."""

    access: Access
    needs: tuple[str, ...] = ()
    any_will_do: bool = False
    owner: bool = False
    conditions: tuple[str, ...] = ()


class Row(NamedTuple):
    """One route. `roles` has one cell per role of the matrix, in the same order."""

    route: Route
    anonymous: Cell
    signed_in: Cell
    roles: tuple[Cell, ...]


class Matrix(NamedTuple):
    roles: tuple[str, ...]
    rows: tuple[Row, ...]


class AlignedRow(NamedTuple):
    """A route in two matrices with the same roles; None where it is missing."""

    old: Row | None
    new: Row | None

    @property
    def route(self) -> Route:
        """The route, as it is in the new matrix if it is there."""
        row = self.new or self.old
        assert row is not None
        return row.route

    @property
    def cells(self) -> Iterator[tuple[Cell | None, Cell | None]]:
        """The cells of both, from the column of anonymous callers on."""
        return zip(_cells(self.old, self.new), _cells(self.new, self.old), strict=True)

    @property
    def is_changed(self) -> bool:
        """Whether some caller has another access."""
        return any(before != after for before, after in self.cells)


def aligned(old: Matrix, new: Matrix) -> list[AlignedRow]:
    """The rows of both matrices: those of the new one in its order, then those that only the old one has."""
    before = {_place(row.route): row for row in old.rows}
    rows = [AlignedRow(before.pop(_place(row.route), None), row) for row in new.rows]
    return [*rows, *(AlignedRow(row, None) for row in before.values())]


def cell_words(cell: Cell) -> str:
    """A cell as a sign and a few words, so that it needs no colour."""
    words = _SIGNS[cell.access]
    if cell.access == "together":
        words = (
            f"{words} {(' or ' if cell.any_will_do else ' and ').join(cell.needs)}{', or own' if cell.owner else ''}"
        )
    return ", ".join((words, *cell.conditions))


def matrix(routes: Iterable[Route], roles: tuple[str, ...], hierarchy: RoleHierarchy) -> Matrix:
    """The matrix of the given routes, in their order."""
    holders = [hierarchy.expand(frozenset({role})) for role in roles]
    return Matrix(roles, tuple(_row(route, holders) for route in routes))


def roles_of(settings: Settings, routes: Iterable[Route]) -> tuple[str, ...]:
    """The declared roles in file order, or else the roles that routes name."""
    return named_roles(routes) if settings.roles is None else tuple(settings.roles)


def named_roles(routes: Iterable[Route]) -> tuple[str, ...]:
    """The roles that routes name, in alphabetical order."""
    named = [each for route in routes for each in (route.requirement.any, route.requirement.all) if each is not None]
    return tuple(sorted(frozenset().union(*named)))


def _place(route: Route) -> tuple[object, ...]:
    return route.host, route.pattern, route.methods


def _cells(row: Row | None, other: Row | None) -> tuple[Cell | None, ...]:
    if row is not None:
        return (row.anonymous, row.signed_in, *row.roles)
    assert other is not None
    return (None,) * (2 + len(other.roles))


def _row(route: Route, holders: Iterable[frozenset[str]]) -> Row:
    anonymous: Access = "yes" if authorize(route, (), None) is None else "no"
    return Row(route, Cell(anonymous), _cell(route, frozenset()), tuple(_cell(route, roles) for roles in holders))


def _cell(route: Route, roles: frozenset[str]) -> Cell:
    cell = _cell_by_roles(route, roles)
    return cell if cell.access == "no" else cell._replace(conditions=tuple(conditions_in_words(route.conditions)))


def _cell_by_roles(route: Route, roles: frozenset[str]) -> Cell:
    if _passes(route, roles, ()):
        return Cell("yes")
    owner = route.requirement.owner
    is_for_owner = owner is not None and _passes(route, roles, ((owner, _EXAMPLE_USER.encode()),))
    needs, any_will_do = _missing(route.requirement, roles)
    if needs:
        return Cell("together", needs, any_will_do, is_for_owner)
    return Cell("owner" if is_for_owner else "no", owner=is_for_owner)


def _passes(route: Route, roles: frozenset[str], captures: Captures) -> bool:
    # Routes without authentication decide as for an anonymous caller.
    caller = None if route.authentication == "none" else Subject(_EXAMPLE_USER, roles)
    return authorize(route, captures, caller) is None


def _missing(requirement: Requirement, roles: frozenset[str]) -> tuple[tuple[str, ...], bool]:
    """The roles that a caller with part of the required roles still lacks. Empty for a caller with none of them.

    If both `any` and `all` are unmet, only the roles missing from `all` are listed.
    """
    any_of, all_of = requirement.any or frozenset(), requirement.all or frozenset()
    if not (any_of | all_of) & roles:
        return (), False
    if all_of - roles:
        return tuple(sorted(all_of - roles)), False
    return tuple(sorted(any_of)), True
