"""Roles that imply others."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.policy.decide import RoleHierarchy
from tests.support.memory import strings_in

ROLES = RoleHierarchy({"admin": ["editor"], "editor": ["user", "reader"], "user": [], "reader": []})


@pytest.mark.parametrize(
    ("own", "expanded"),
    [
        (set(), set()),
        ({"user"}, {"user"}),
        ({"editor"}, {"editor", "user", "reader"}),
        ({"admin"}, {"admin", "editor", "user", "reader"}),
        ({"admin", "guest"}, {"admin", "editor", "user", "reader", "guest"}),
        ({"guest"}, {"guest"}),
    ],
)
def test_a_role_implies_all_below_it(own: set[str], expanded: set[str]) -> None:
    assert ROLES.expand(frozenset(own)) == expanded


def test_without_declared_roles_nothing_is_implied() -> None:
    assert RoleHierarchy(None).expand(frozenset({"admin"})) == {"admin"}


def test_equal_sets_are_one_object() -> None:
    one = ROLES.expand(frozenset({"admin"}))
    assert ROLES.expand(frozenset({"admin"})) is one
    assert ROLES.expand(frozenset({"admin", "editor"})) is one


def test_a_circle_ends() -> None:
    circle = RoleHierarchy({"a": ["b"], "b": ["c"], "c": ["a"], "d": ["d"]})
    assert circle.expand(frozenset({"b"})) == {"a", "b", "c"}
    assert circle.expand(frozenset({"d"})) == {"d"}


def test_a_chain_of_any_length_is_followed() -> None:
    chain = RoleHierarchy({str(number): [str(number + 1)] for number in range(3000)})
    assert len(chain.expand(frozenset({"0"}))) == 3001


def test_the_memory_of_sets_is_bounded() -> None:
    hierarchy = RoleHierarchy({"admin": ["user"]})
    held = strings_in(hierarchy)
    for number in range(10_000):
        assert hierarchy.expand(frozenset({"admin", str(number)})) == {"admin", "user", str(number)}
    assert strings_in(hierarchy) <= held + 4096


_NAMES = st.sampled_from("abcdef")


@given(
    st.dictionaries(_NAMES, st.lists(_NAMES, max_size=3)),
    st.frozensets(_NAMES, max_size=3),
    st.frozensets(_NAMES, max_size=3),
)
def test_expansion_is_a_closure(roles: dict[str, list[str]], one: frozenset[str], other: frozenset[str]) -> None:
    hierarchy = RoleHierarchy(roles)
    expanded = hierarchy.expand(one)
    assert one <= expanded
    assert hierarchy.expand(expanded) == expanded
    assert hierarchy.expand(one | other) == expanded | hierarchy.expand(other)
    assert all(set(roles.get(role, ())) <= expanded for role in expanded)
