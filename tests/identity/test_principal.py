"""Principals: their roles, and the identity headers for upstreams."""

from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.identity.principal import (
    Principal,
    PrincipalFactory,
    forwards_only_verified,
    identity_roles,
    identity_value,
)
from gateway.identity.user import Claims, UserRecord
from gateway.settings.model import EmailSettings, HeaderSettings, IdentitySettings

CREATED = datetime(2026, 11, 22, 12, 30, tzinfo=UTC)


def record(**changes: Any) -> UserRecord:
    values: dict[str, Any] = {
        "id": "42",
        "email": "ann@example.com",
        "is_active": True,
        "roles": frozenset(["user"]),
        "created_at": CREATED,
        "version": 3,
    }
    return UserRecord(**(values | changes))


def expand(roles: frozenset[str]) -> frozenset[str]:
    """An admin is an editor too."""
    return roles | {"editor"} if "admin" in roles else roles


def make(**changes: Any) -> Principal:
    return PrincipalFactory(IdentitySettings(), expand).make(record(**changes))


def test_the_identity_headers_are_ready_to_be_sent() -> None:
    assert make(roles=frozenset(["user", "admin"])).header_lines == (
        b"X-User-Id: 42\r\nX-User-Email: ann@example.com\r\nX-User-Roles: admin,editor,user\r\n"
    )


def test_the_headers_have_the_names_that_are_configured() -> None:
    settings = IdentitySettings(headers=HeaderSettings(id="X-Uid", email="X-Mail", roles="X-Groups"))
    assert PrincipalFactory(settings, expand).make(record()).header_lines == (
        b"X-Uid: 42\r\nX-Mail: ann@example.com\r\nX-Groups: user\r\n"
    )


def test_no_roles_are_an_empty_header_and_a_missing_address_is_none() -> None:
    assert make(roles=frozenset()).header_lines.endswith(b"X-User-Roles: \r\n")
    assert make(email="").header_lines == b"X-User-Id: 42\r\nX-User-Roles: user\r\n"


def test_roles_are_the_users_own_and_those_they_imply() -> None:
    principal = make(roles=frozenset(["admin"]))
    assert principal.own_roles == {"admin"}
    assert principal.roles == {"admin", "editor"}


def test_users_with_the_same_roles_share_one_set() -> None:
    factory = PrincipalFactory(IdentitySettings(), expand)
    one, other = (factory.make(record(id=name, roles=frozenset(["admin", "user"]))) for name in ("1", "2"))
    assert one.roles is other.roles
    assert one.own_roles is other.own_roles


def test_more_sets_of_roles_than_are_remembered_stay_right() -> None:
    factory = PrincipalFactory(IdentitySettings(), expand)
    for number in range(5000):
        assert factory.make(record(roles=frozenset([f"r{number}"]))).roles == {f"r{number}"}
    assert factory.make(record(roles=frozenset(["r0"]))).header_lines.endswith(b": r0\r\n")


def test_the_record_can_be_had_again() -> None:
    for given_record in (
        record(),
        record(is_active=False, ended_sessions=frozenset(["s1"]), roles=frozenset(["admin"])),
    ):
        principal = PrincipalFactory(IdentitySettings(), expand).make(given_record)
        assert principal.record == given_record
        assert principal.is_active is given_record.is_active
        assert principal.ended_sessions == given_record.ended_sessions


def test_a_principal_shows_its_id_and_nothing_else_about_it() -> None:
    assert repr(make()) == "Principal('42')"


def test_a_principal_of_an_external_issuer_has_its_claims() -> None:
    claims = Claims("idp|a b", "", 2e9, 1e9, "j", "https://idp/", frozenset(["admin"]), "bob@idp")
    factory = PrincipalFactory(IdentitySettings(), expand)
    stranger = factory.make(record(id="idp|a b", email="", roles=frozenset()))
    principal = factory.scoped_to(stranger, claims)
    assert (principal.id, principal.is_active, principal.roles) == ("idp|a b", True, frozenset({"admin", "editor"}))
    assert principal.header_lines == (
        b"X-User-Id: idp|a%20b\r\nX-User-Email: bob@idp\r\nX-User-Roles: admin,editor\r\n"
    )
    nobody = factory.scoped_to(stranger, claims._replace(roles=frozenset(), email=""))
    assert nobody.header_lines == b"X-User-Id: idp|a%20b\r\nX-User-Roles: \r\n"


def test_a_blocked_subject_is_inactive_for_any_claims() -> None:
    factory = PrincipalFactory(IdentitySettings(), expand)
    blocked = factory.make(record(id="idp|bob", is_active=False, roles=frozenset()))
    claims = Claims("idp|bob", "", 2e9, 1e9, "j", "https://idp/", frozenset(["admin"]))
    assert not factory.scoped_to(blocked, claims).is_active


@pytest.mark.parametrize(
    ("owner", "key", "own", "expanded"),
    [
        ({"admin", "user"}, {"user"}, {"user"}, {"user"}),
        ({"admin"}, {"editor"}, {"editor"}, {"editor"}),  # implied by the owner's role
        ({"user"}, {"admin"}, set(), set()),  # the owner lost the role or never had it
        ({"user"}, set(), set(), set()),
        ({"admin"}, {"admin", "auditor"}, {"admin"}, {"admin", "editor"}),
    ],
)
def test_a_key_has_those_of_its_roles_that_its_owner_has(
    owner: set[str], key: set[str], own: set[str], expanded: set[str]
) -> None:
    factory = PrincipalFactory(IdentitySettings(), expand)
    principal = factory.make(record(id="u1", roles=frozenset(owner), ended_sessions=frozenset(["key-1"])))
    acting = factory.scoped_to(principal, Claims("u1", "key-2", 2e9, 1e9, "", "", frozenset(key)))
    assert (acting.own_roles, acting.roles) == (frozenset(own), frozenset(expanded))
    assert (acting.id, acting.email, acting.ended_sessions) == ("u1", principal.email, frozenset({"key-1"}))


def test_the_same_claims_act_as_the_same_principal_until_the_record_changes() -> None:
    factory = PrincipalFactory(IdentitySettings(), expand)
    claims = Claims("u1", "key-2", 2e9, 1e9, "", "", frozenset(["user"]))
    principal = factory.make(record(id="u1"))
    assert factory.scoped_to(principal, claims) is factory.scoped_to(principal, claims._replace(session="key-3"))
    assert factory.scoped_to(factory.make(record(id="u1")), claims) is not factory.scoped_to(principal, claims)


def test_the_ways_one_principal_acts_in_are_bounded() -> None:
    factory = PrincipalFactory(IdentitySettings(), expand)
    principal = factory.make(record(id="idp|bob"))
    for number in range(1000):
        claims = Claims("idp|bob", "", 2e9, 1e9, "", "https://idp/", frozenset([f"r{number}"]))
        assert factory.scoped_to(principal, claims).roles == {f"r{number}"}
    assert principal.scoped_to is not None and len(principal.scoped_to) <= 16


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0b9f-2c", b"0b9f-2c"),
        ("a b", b"a%20b"),
        ("100%", b"100%25"),
        ("a,b", b"a,b"),
        ("ü", b"%C3%BC"),
        ("日本", b"%E6%97%A5%E6%9C%AC"),
        ("a\r\nX-User-Roles: admin", b"a%0D%0AX-User-Roles:%20admin"),
        ("\0\t\x7f", b"%00%09%7F"),
        ("\ud800", b"%ED%A0%80"),
        ("\x85\u2028", b"%C2%85%E2%80%A8"),
        ("", b""),
    ],
)
def test_values_are_visible_ascii_with_the_rest_percent_encoded(text: str, value: bytes) -> None:
    assert identity_value(text) == value


@pytest.mark.parametrize(
    ("roles", "value"),
    [
        ([], b""),
        (["b", "a", "C"], b"C,a,b"),
        (["a,admin"], b"a%2Cadmin"),
        (["a%2Cb"], b"a%252Cb"),
        (["zoë", "x y"], b"x%20y,zo%C3%AB"),
    ],
)
def test_roles_are_sorted_and_no_role_can_look_like_two(roles: list[str], value: bytes) -> None:
    assert identity_roles(frozenset(roles)) == value


@given(st.text())
def test_a_value_can_be_read_back_and_breaks_no_line(text: str) -> None:
    value = identity_value(text)
    assert all(0x21 <= byte <= 0x7E for byte in value)
    assert unquote(value.decode("ascii"), errors="surrogatepass") == text


@given(st.frozensets(st.text(min_size=1), max_size=5))
def test_roles_can_be_read_back(roles: frozenset[str]) -> None:
    value = identity_roles(roles).decode("ascii")
    assert frozenset(unquote(part, errors="surrogatepass") for part in value.split(",") if part) == roles


@pytest.mark.parametrize(
    ("record_id", "is_verified", "only_verified", "forwarded"),
    [
        ("u1", True, True, "ann@example.com"),
        ("u1", False, True, ""),
        ("u1", False, False, "ann@example.com"),
        ("keycloak|7", False, True, "ann@example.com"),  # its issuer vouches for it
    ],
)
def test_only_verified_addresses_are_forwarded_if_configured(
    record_id: str, is_verified: bool, only_verified: bool, forwarded: str
) -> None:
    factory = PrincipalFactory(IdentitySettings(), expand, only_verified=only_verified)
    principal = factory.make(record(id=record_id, email="ann@example.com", email_verified=is_verified))
    assert principal.forwarded_email == forwarded
    assert (b"X-User-Email: ann@example.com" in principal.header_lines) == bool(forwarded)
    assert principal.email == "ann@example.com"


@pytest.mark.parametrize(
    ("verification", "forward", "only_verified"),
    [
        ("none", "auto", False),
        ("optional", "auto", True),
        ("required", "auto", True),
        ("none", "verified", True),
        ("required", "always", False),
    ],
)
def test_the_meaning_of_forward_depends_on_the_verification(
    verification: Any, forward: Any, only_verified: bool
) -> None:
    assert forwards_only_verified(EmailSettings(verification=verification, forward=forward)) is only_verified
