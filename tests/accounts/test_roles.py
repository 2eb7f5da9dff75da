"""Role names in administration, and the roles of administrators."""

import pytest

from gateway.policy.roles import accepted_roles, admin_roles
from tests.accounts.harness import make_settings

DECLARED = {"admin": ("editor",), "editor": ("user",), "user": (), "root": ("admin",), "boss": ("root",)}


@pytest.mark.parametrize("names", [[], ["user"], ["user", "user"], ["a b", "ü", "idp:x", "a,b", "%"], ["x" * 128]])
def test_any_printable_name_is_a_role_where_none_are_declared(names: list[str]) -> None:
    assert accepted_roles(names, make_settings()) == frozenset(names)


@pytest.mark.parametrize("name", ["", " ", " a", "a ", "a\nb", "a\0", "\u202e", "x" * 129, "\ud800"])
def test_an_invalid_role_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="must be role names"):
        accepted_roles(["user", name], make_settings())


def test_a_role_that_is_not_declared_is_refused_and_the_known_ones_named() -> None:
    settings = make_settings(roles={"editor": ("user",)}, default_roles=("member",))
    assert accepted_roles(["editor", "user", "member", "admin"], settings) == {"editor", "user", "member", "admin"}
    with pytest.raises(ValueError) as raised:
        accepted_roles(["edtor"], settings)
    assert str(raised.value) == "'edtor' is not a declared role (known: admin, editor, member, user)"


def test_every_role_that_implies_the_administrators_role_administrates() -> None:
    assert admin_roles(make_settings()) == {"admin"}
    assert admin_roles(make_settings(roles=DECLARED)) == {"admin", "root", "boss"}
    assert admin_roles(make_settings(roles=DECLARED, admin_role="boss")) == {"boss"}
    assert admin_roles(make_settings(roles=DECLARED, admin_role="user")) == {*DECLARED}
