"""Authorization as a table of values."""

from dataclasses import dataclass

import pytest

from gateway.policy.decide import authorize
from gateway.policy.patterns import parse_pattern
from gateway.policy.route import Authentication, Requirement, Route


@dataclass(frozen=True)
class FakePrincipal:
    """A principal for the decision."""

    id: str = "u1"
    roles: frozenset[str] = frozenset()


def principal_with(*roles: str, user_id: str = "u1") -> FakePrincipal:
    return FakePrincipal(user_id, frozenset(roles))


def route(requirement: Requirement, authentication: Authentication = "required") -> Route:
    return Route(
        name="the-route",
        shape=parse_pattern("/users/{user_id}/**"),
        methods=None,
        authentication=authentication,
        requirement=requirement,
    )


ANY = Requirement(any=frozenset({"user", "auditor"}))
ALL = Requirement(all=frozenset({"user", "auditor"}))
BOTH = Requirement(any=frozenset({"admin", "root"}), all=frozenset({"user"}))
OWNER = Requirement(owner="user_id")
ADMIN_OR_OWNER = Requirement(any=frozenset({"admin"}), owner="user_id")
NO_ROLE = Requirement(any=frozenset())
NOTHING = Requirement()

STRANGER = principal_with()
PLAIN = principal_with("user")
AUDITING = principal_with("user", "auditor")
ADMIN = principal_with("admin", user_id="boss")


@pytest.mark.parametrize(
    ("requirement", "authentication", "principal", "code"),
    [
        (NOTHING, "required", None, "token_missing"),
        (NOTHING, "required", STRANGER, None),
        (NOTHING, "optional", None, None),
        (NOTHING, "optional", STRANGER, None),
        (NOTHING, "none", None, None),
        (ANY, "required", None, "token_missing"),
        (ANY, "required", STRANGER, "forbidden"),
        (ANY, "required", PLAIN, None),
        (ANY, "required", ADMIN, "forbidden"),
        (ALL, "required", PLAIN, "forbidden"),
        (ALL, "required", AUDITING, None),
        (BOTH, "required", PLAIN, "forbidden"),
        (BOTH, "required", ADMIN, "forbidden"),
        (BOTH, "required", principal_with("root", "user"), None),
        (NO_ROLE, "required", ADMIN, "forbidden"),
        # roles and owners require a signed-in user
        (ANY, "optional", None, "token_missing"),
        (ANY, "none", None, "token_missing"),
        (OWNER, "optional", None, "token_missing"),
    ],
)
def test_callers_that_pass(
    requirement: Requirement, authentication: Authentication, principal: FakePrincipal | None, code: str | None
) -> None:
    refusal = authorize(route(requirement, authentication), (("user_id", b"somebody"),), principal)
    assert (refusal.code if refusal else None) == code
    assert refusal is None or refusal.route == "the-route"


@pytest.mark.parametrize(
    ("requirement", "capture", "principal", "passes"),
    [
        (OWNER, b"u1", PLAIN, True),
        (OWNER, b"u1", STRANGER, True),
        (OWNER, b"u2", PLAIN, False),
        (OWNER, b"u1", ADMIN, False),  # no role implies ownership
        (OWNER, b"U1", PLAIN, False),
        (OWNER, b"u1%20", PLAIN, False),
        (ADMIN_OR_OWNER, b"u1", PLAIN, True),
        (ADMIN_OR_OWNER, b"u2", PLAIN, False),
        (ADMIN_OR_OWNER, b"u2", ADMIN, True),
        # captures are compared decoded: an issuer's principal is NAME|SUB, and a path cannot contain `|` raw
        (OWNER, b"idp%7C7", principal_with(user_id="idp|7"), True),
        (OWNER, b"caf%C3%A9", principal_with(user_id="café"), True),
        (OWNER, b"a%2Fb", principal_with(user_id="a/b"), True),
        (OWNER, b"%2541", principal_with(user_id="A"), False),
        (OWNER, b"x", principal_with(user_id=""), False),
        (OWNER, b"x", principal_with(user_id="\ud800"), False),
    ],
)
def test_the_owner_is_the_user_whose_id_stands_in_the_path(
    requirement: Requirement, capture: bytes, principal: FakePrincipal, passes: bool
) -> None:
    refusal = authorize(route(requirement), (("other", b"x"), ("user_id", capture)), principal)
    assert (refusal is None) is passes
    assert refusal is None or refusal.code == "forbidden"


def test_only_the_named_capture_identifies_the_owner() -> None:
    captures = (("user_id", b"u2"), ("other_id", b"u1"))
    assert authorize(route(OWNER), captures, PLAIN) is not None


def test_an_owner_without_its_capture_admits_no_one() -> None:
    assert authorize(route(Requirement(owner="missing")), (("user_id", b"u1"),), PLAIN) is not None


@pytest.mark.parametrize(
    ("requirement", "reason"),
    [
        (ANY, "needs one of the roles auditor, user; 'u1' has the roles guest"),
        (ALL, "needs all of the roles auditor, user; 'u1' has the roles guest"),
        (BOTH, "needs one of the roles admin, root and all of the roles user; 'u1' has the roles guest"),
        (OWNER, "needs to be the user of the capture 'user_id'; 'u1' has the roles guest"),
        (
            ADMIN_OR_OWNER,
            "needs one of the roles admin, or to be the user of the capture 'user_id'; 'u1' has the roles guest",
        ),
        (NO_ROLE, "needs one of the roles (none); 'u1' has the roles guest"),
    ],
)
def test_a_refusal_states_its_reason_privately_only(requirement: Requirement, reason: str) -> None:
    refusal = authorize(route(requirement), (("user_id", b"u2"),), principal_with("guest"))
    assert refusal is not None
    assert refusal.reason == reason
    assert refusal.detail == "Insufficient permissions"
