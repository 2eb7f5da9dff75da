"""The matrix: each cell equals the decision for a user with exactly that role."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.analysis.matrix import Cell, Matrix, matrix, roles_of
from gateway.analysis.simulate import Subject
from gateway.policy.decide import authorize
from gateway.policy.patterns import parse_pattern
from gateway.policy.roles import RoleHierarchy
from gateway.policy.route import NOTHING_MORE, Requirement, Route
from tests.policy.policies import Routes, policy_of, settings_of
from tests.support.scale import examples

ROLES = {"admin": ["editor"], "editor": ["user"], "auditor": [], "user": []}
YES, NO, OWN = Cell("yes"), Cell("no"), Cell("owner", owner=True)


def of(routes: Routes, **sections: Any) -> Matrix:
    read = settings_of(routes, **sections)
    policy = policy_of(routes, **sections)
    return matrix(policy.routes, roles_of(read, policy.routes), RoleHierarchy(read.roles))


@pytest.mark.parametrize(
    ("route", "anonymous", "signed_in", "roles"),
    [
        ({"auth": "none"}, YES, YES, [YES, YES, YES, YES]),
        ({"auth": "optional"}, YES, YES, [YES, YES, YES, YES]),
        ({}, NO, YES, [YES, YES, YES, YES]),
        ({"roles": ["editor"]}, NO, NO, [YES, YES, NO, NO]),
        ({"roles": ["user", "auditor"]}, NO, NO, [YES, YES, YES, YES]),
        ({"roles": ["auditor"], "owner": "id"}, NO, OWN, [OWN, OWN, YES, OWN]),
        ({"owner": "id"}, NO, OWN, [OWN, OWN, OWN, OWN]),
        (
            {"roles": {"all": ["editor", "auditor"]}},
            NO,
            NO,
            [Cell("together", ("auditor",)), Cell("together", ("auditor",)), Cell("together", ("editor",)), NO],
        ),
        (
            {"roles": {"all": ["admin", "auditor"]}, "owner": "id"},
            NO,
            OWN,
            [Cell("together", ("auditor",), owner=True), OWN, Cell("together", ("admin",), owner=True), OWN],
        ),
        (
            {"roles": {"any": ["auditor", "admin"], "all": ["user"]}},
            NO,
            NO,
            [
                YES,
                Cell("together", ("admin", "auditor"), any_will_do=True),
                Cell("together", ("user",)),
                Cell("together", ("admin", "auditor"), any_will_do=True),
            ],
        ),
    ],
)
def test_cells(route: dict[str, object], anonymous: Cell, signed_in: Cell, roles: list[Cell]) -> None:
    table = of([{"path": "/x/{id}", **route}], roles=ROLES)
    assert table.roles == ("admin", "editor", "auditor", "user")
    (row,) = table.rows
    assert (row.anonymous, row.signed_in, list(row.roles)) == (anonymous, signed_in, roles)


def test_without_declared_roles_those_of_the_routes_are_listed() -> None:
    routes: Routes = [
        {"path": "/a", "roles": ["b"]},
        {"path": "/b", "roles": {"any": ["c"], "all": ["a"]}},
        {"path": "/c"},
    ]
    assert of(routes).roles == ("a", "b", "c")
    assert of([{"path": "/c"}]).roles == ()


_NAMES = ["a", "b", "c", "d"]
_some = st.one_of(st.none(), st.sets(st.sampled_from(_NAMES), min_size=1).map(frozenset))
_requirements = st.builds(Requirement, _some, _some, st.sampled_from([None, "id"]))
_hierarchies = st.dictionaries(st.sampled_from(_NAMES), st.sets(st.sampled_from(_NAMES)), max_size=4)


@given(_requirements, _hierarchies)
@examples(300)
def test_every_cell_equals_the_decision_for_its_caller(requirement: Requirement, implied: dict[str, set[str]]) -> None:
    hierarchy = RoleHierarchy(implied)
    # Like the loader: all routes without requirements share one object.
    asked = NOTHING_MORE if requirement == NOTHING_MORE else requirement
    route = Route(name="it", shape=parse_pattern("/{id}"), methods=None, requirement=asked, upstream="web")
    (row,) = matrix([route], tuple(_NAMES), hierarchy).rows
    for role, cell in [(None, row.signed_in), *zip(_NAMES, row.roles, strict=True)]:
        own = frozenset() if role is None else frozenset({role})

        def passes(who: str, *more: str, own: frozenset[str] = own) -> bool:
            return authorize(route, (("id", b"u"),), Subject(who, hierarchy.expand(own | frozenset(more)))) is None

        assert passes("other") is (cell.access == "yes")
        assert passes("u") is (cell.access == "yes" or cell.owner)
        if cell.access == "together" and not cell.any_will_do:
            assert all(
                not passes("other", *(need for need in cell.needs if need != left))
                or left in hierarchy.expand(own | (frozenset(cell.needs) - {left}))
                for left in cell.needs
            )
        if cell.any_will_do:
            assert all(passes("other", need) for need in cell.needs)
    assert row.anonymous == (YES if authorize(route, (), None) is None else NO)
