"""Who can reach what: every route against every kind of caller, each cell decided by `authorize`.

Callers are the anonymous one, somebody who is signed in without a role, and for each role somebody who has it, with
all that it implies, and no other. For what more than one role decides the cell says what else is needed.
"""

from collections.abc import Iterable
from typing import Final, Literal, NamedTuple

from gateway.policy.decide import authorize
from gateway.policy.hierarchy import RoleHierarchy
from gateway.policy.rewriting import Captures
from gateway.policy.route import Requirement, Route
from gateway.policy.verdict import Caller
from gateway.settings.model import Settings

# yes: may pass. owner: only where it is the caller's own id that stands in the path. together: only with other roles.
Access = Literal["yes", "owner", "together", "no"]

_SOMEBODY: Final = "somebody"


class Cell(NamedTuple):
    """Whether one kind of caller may pass one route. `needs` are the roles that are missing, for `together`: all of
    them, or, where `any_will_do`, one of them. `owner`: so may the owner, without any of that."""

    access: Access
    needs: tuple[str, ...] = ()
    any_will_do: bool = False
    owner: bool = False


class Row(NamedTuple):
    """One route. `roles` has a cell for each role of the matrix, in its order."""

    route: Route
    anonymous: Cell
    signed_in: Cell
    roles: tuple[Cell, ...]


class Matrix(NamedTuple):
    roles: tuple[str, ...]
    rows: tuple[Row, ...]


def matrix(routes: Iterable[Route], roles: tuple[str, ...], hierarchy: RoleHierarchy) -> Matrix:
    """The matrix of some routes, in their order."""
    holders = [hierarchy.expand(frozenset({role})) for role in roles]
    return Matrix(roles, tuple(_row(route, holders) for route in routes))


def roles_of(settings: Settings, routes: Iterable[Route]) -> tuple[str, ...]:
    """The roles there are: those that the configuration declares, in its order, or else those that routes name."""
    if settings.roles is not None:
        return tuple(settings.roles)
    named = [each for route in routes for each in (route.requirement.any, route.requirement.all) if each is not None]
    return tuple(sorted(frozenset().union(*named)))


def _row(route: Route, holders: Iterable[frozenset[str]]) -> Row:
    anonymous: Access = "yes" if authorize(route, (), None) is None else "no"
    return Row(route, Cell(anonymous), _cell(route, frozenset()), tuple(_cell(route, roles) for roles in holders))


def _cell(route: Route, roles: frozenset[str]) -> Cell:
    if _passes(route, roles, ()):
        return Cell("yes")
    owner = route.requirement.owner
    is_for_owner = owner is not None and _passes(route, roles, ((owner, _SOMEBODY.encode()),))
    needs, any_will_do = _missing(route.requirement, roles)
    if needs:
        return Cell("together", needs, any_will_do, is_for_owner)
    return Cell("owner" if is_for_owner else "no", owner=is_for_owner)


def _passes(route: Route, roles: frozenset[str], captures: Captures) -> bool:
    # A route that looks nobody up decides as for an anonymous caller, whoever asks.
    caller = None if route.authentication == "none" else Caller(_SOMEBODY, roles)
    return authorize(route, captures, caller) is None


def _missing(requirement: Requirement, roles: frozenset[str]) -> tuple[tuple[str, ...], bool]:
    """The roles that are still asked of somebody who has a part of what is asked; empty where there is no such part.

    What both `any` and `all` miss is told as `all` does, the rest once that is there.
    """
    any_of, all_of = requirement.any or frozenset(), requirement.all or frozenset()
    if not (any_of | all_of) & roles:
        return (), False
    if all_of - roles:
        return tuple(sorted(all_of - roles)), False
    return tuple(sorted(any_of)), True
