"""Access rules in a canonical form, so that two of them can be compared exactly.

A request carries one of three credentials: none, a set of roles, or the user id named by a segment of the path. A
larger set of roles never grants less access, so role checks are monotone, and a monotone check has exactly one minimal
form as *clauses*: sets of roles, each of which must share at least one role with the caller. Implied roles are part of
the clauses: if `admin` implies `editor`, a route for editors has the clause {admin, editor}.

The conditions on the credential are independent of the roles and of each other, so a caller passes if it meets each of
them. The difference of two rules names, for each condition that is stricter on the other side, the callers that fail it
there.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from gateway.policy.roles import RoleHierarchy
from gateway.policy.route import NO_CONDITIONS, Conditions, Route

Roles = frozenset[str]
Clauses = frozenset[Roles]

EVERY_USER: Final[Clauses] = frozenset()
UNSATISFIABLE: Final[Clauses] = frozenset({frozenset()})
CREDENTIAL_KINDS: Final = frozenset(("session", "token", "api_key", "external"))
WITH_SIGN_IN: Final = frozenset(("session", "token"))  # The kinds that contain the time of a sign-in.
# Checks with exponentially many minimal role sets can be written. A report lists at most this many.
MOST_ROLE_SETS: Final = 32


@dataclass(frozen=True, slots=True)
class CallerKind:
    """One kind of caller with the minimal access it needs: anonymous, signed in with `roles`, or the user whose id is
    in path segment `owner`, counted from 1.

    Further facts narrow the kind: the kind of credential, a sign-in older than `older_than` seconds (or none, as with
    an API key), an address that is not verified, or a page of another site that uses the session cookie.
    """

    anonymous: bool = False
    roles: Roles = frozenset()
    owner: int | None = None
    credential: str | None = None
    older_than: float | None = None
    unverified: bool = False
    foreign_page: bool = False


ANONYMOUS: Final = CallerKind(anonymous=True)


@dataclass(frozen=True, slots=True)
class Access:
    """The set of callers that pass: signed-in callers that meet every clause, the `owner`, or all callers. Signed-in
    callers must also meet the conditions."""

    is_public: bool = False
    clauses: Clauses = UNSATISFIABLE
    owner: int | None = None
    conditions: Conditions = NO_CONDITIONS

    def admits(self, caller: CallerKind) -> bool:
        """Whether the roles or the id of a caller suffice."""
        if self.is_public or caller.anonymous:
            return self.is_public
        if self.owner is not None and self.owner == caller.owner:
            return True
        return all(not clause.isdisjoint(caller.roles) for clause in self.clauses)

    @property
    def is_empty(self) -> bool:
        """Whether no caller passes."""
        return not self.is_public and self.owner is None and frozenset() in self.clauses

    def difference(self, other: "Access") -> tuple[CallerKind, ...]:
        """Callers that pass here but not in `other`, each with a minimal set of roles.

        Every caller that passes only here holds at least the roles of one of them. The result is empty only if no such
        caller exists.
        """
        by_roles = self._difference_by_roles(other)
        if self.is_public or other.is_public:
            return by_roles
        known = {(each.roles, each.owner) for each in by_roles}
        mine = [CallerKind(roles=roles) for roles in _minimal_sets(self.clauses)]
        mine += [] if self.owner is None else [CallerKind(owner=self.owner)]
        beyond = [
            replace(caller, **failed)
            for failed in _failed(self.conditions, other.conditions)
            for caller in mine
            if (caller.roles, caller.owner) not in known
        ]
        return (*by_roles, *beyond)

    def _difference_by_roles(self, other: "Access") -> tuple[CallerKind, ...]:
        if other.is_public:
            return ()
        if self.is_public:
            return (ANONYMOUS,)
        kinds = [CallerKind(roles=roles) for roles in self._role_sets_beyond(other)]
        if self.owner is not None and self.owner != other.owner and frozenset() not in (each.roles for each in kinds):
            owner = CallerKind(owner=self.owner)
            kinds += () if other.admits(owner) else (owner,)
        return tuple(kinds)

    def _role_sets_beyond(self, other: "Access") -> list[Roles]:
        """The minimal sets of roles that pass here but not in `other`, at most MOST_ROLE_SETS."""
        # A conjunction of clauses implies another clause only if it contains a subset of that clause.
        failed = [clause for clause in other.clauses if not any(mine <= clause for mine in self.clauses)]
        if not failed or frozenset() in self.clauses:
            return []
        found = [roles for roles in _minimal_sets(self.clauses) if not other.admits(CallerKind(roles=roles))]
        return found or [self._witness(clause) for clause in failed[:1]]

    def _witness(self, clause: Roles) -> Roles:
        """A set of roles that passes here and holds no role of `clause`."""
        return frozenset(min(mine - clause) for mine in self.clauses)


NO_ACCESS: Final = Access()


class AccessRules:
    """Computes the access of routes under one role hierarchy."""

    def __init__(self, roles: Mapping[str, Iterable[str]] | None) -> None:
        hierarchy = RoleHierarchy(roles)
        self._amount_to: dict[str, set[str]] = {}
        for role in roles or {}:
            for implied in hierarchy.expand(frozenset({role})):
                self._amount_to.setdefault(implied, set()).add(role)
        self._known: dict[object, Access] = {}

    def of(self, route: Route) -> Access:
        """The access of a route. Unserved routes, and routes that refuse every caller, admit none."""
        if not route.is_served or route.refusal is not None:
            return NO_ACCESS
        requirement = route.requirement
        owner = None if requirement.owner is None else dict(route.captures).get(requirement.owner)
        required = route.authentication == "required"
        key = (requirement.any, requirement.all, owner, required, requirement.names_roles, route.conditions)
        access = self._known.get(key)
        if access is None:
            access = self._known[key] = self._made(route, owner)
        return access

    def _made(self, route: Route, owner: int | None) -> Access:
        requirement, conditions = route.requirement, _canonical(route.conditions or NO_CONDITIONS)
        asks = requirement.names_roles or requirement.owner is not None
        if not asks:
            if route.authentication != "required":  # A caller who fails the conditions is anonymous.
                return Access(is_public=True, clauses=EVERY_USER)
            return Access(clauses=EVERY_USER, conditions=conditions)
        if not requirement.names_roles:
            return Access(owner=owner, conditions=conditions)
        clauses = [] if requirement.any is None else [self._clause(requirement.any)]
        clauses += [self._clause({role}) for role in requirement.all or ()]
        return Access(clauses=_shortest(clauses), owner=None if not clauses else owner, conditions=conditions)

    def _clause(self, roles: Iterable[str]) -> Roles:
        """The given roles and every role that implies one of them."""
        found: set[str] = set()
        for role in roles:
            found |= {role} | self._amount_to.get(role, set())
        return frozenset(found)


def _canonical(conditions: Conditions) -> Conditions:
    """The conditions with the kinds that can meet all of them; None for every kind."""
    kinds = CREDENTIAL_KINDS if conditions.kinds is None else conditions.kinds
    kinds = kinds if conditions.fresh is None else kinds & WITH_SIGN_IN
    is_strict = conditions.same_origin and "session" in kinds
    return replace(conditions, kinds=None if kinds == CREDENTIAL_KINDS else kinds, same_origin=is_strict)


def _failed(mine: Conditions, other: Conditions) -> Iterator[dict[str, Any]]:
    """The facts of callers that meet the conditions here and fail one of `other`, one fact at a time."""
    kinds = CREDENTIAL_KINDS if mine.kinds is None else mine.kinds
    if other.kinds is not None:
        yield from ({"credential": kind} for kind in sorted(kinds - other.kinds))
    if other.fresh is not None and (mine.fresh is None or mine.fresh > other.fresh):
        yield {"older_than": other.fresh}
    if other.verified and not mine.verified:
        yield {"unverified": True}
    if other.same_origin and not mine.same_origin and "session" in kinds:
        yield {"foreign_page": True}


def _shortest(clauses: Iterable[Roles]) -> Clauses:
    """The clauses without supersets of other clauses."""
    kept: list[Roles] = []
    for clause in sorted(set(clauses), key=len):
        if not any(shorter <= clause for shorter in kept):
            kept.append(clause)
    return frozenset(kept)


def _minimal_sets(clauses: Clauses) -> Iterator[Roles]:
    """The minimal sets of roles that meet all clauses, cut off at MOST_ROLE_SETS."""
    sets: list[Roles] = [frozenset()]
    for clause in sorted(clauses, key=lambda clause: (len(clause), sorted(clause))):
        grown = {each if each & clause else each | {role} for each in sets for role in sorted(clause)}
        ordered = sorted(grown, key=lambda roles: (len(roles), sorted(roles)))
        sets = [each for each in ordered if not any(other < each for other in ordered)][: 4 * MOST_ROLE_SETS]
    yield from sets[:MOST_ROLE_SETS]
