"""Access rules in a canonical form, so that two of them can be compared exactly.

A request carries one of three credentials: none, a set of roles, or the user id named by a segment of the path. A
larger set of roles never grants less access, so role checks are monotone, and a monotone check has exactly one minimal
form as *clauses*: sets of roles, each of which must share at least one role with the caller. Implied roles are part of
the clauses: if `admin` implies `editor`, a route for editors has the clause {admin, editor}.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from gateway.policy.roles import RoleHierarchy
from gateway.policy.route import Route

Roles = frozenset[str]
Clauses = frozenset[Roles]

ANYBODY_SIGNED_IN: Final[Clauses] = frozenset()
UNSATISFIABLE: Final[Clauses] = frozenset({frozenset()})
# Checks with exponentially many minimal role sets can be written. A report lists at most this many.
MOST_ROLE_SETS: Final = 32


@dataclass(frozen=True, slots=True)
class CallerKind:
    """One kind of caller with the minimal access it needs: anonymous, signed in with `roles`, or the user whose id is
    in path segment `owner`, counted from 1."""

    anonymous: bool = False
    roles: Roles = frozenset()
    owner: int | None = None


ANONYMOUS: Final = CallerKind(anonymous=True)


@dataclass(frozen=True, slots=True)
class Access:
    """The set of callers that pass: signed-in callers that meet every clause, the `owner`, or all callers."""

    everybody: bool = False
    clauses: Clauses = UNSATISFIABLE
    owner: int | None = None

    def admits(self, caller: CallerKind) -> bool:
        if self.everybody or caller.anonymous:
            return self.everybody
        if self.owner is not None and self.owner == caller.owner:
            return True
        return all(not clause.isdisjoint(caller.roles) for clause in self.clauses)

    @property
    def is_nobody(self) -> bool:
        """Whether no caller passes."""
        return not self.everybody and self.owner is None and frozenset() in self.clauses

    def difference(self, other: "Access") -> tuple[CallerKind, ...]:
        """Callers that pass here but not in `other`, each with a minimal set of roles.

        Every caller that passes only here holds at least the roles of one of them. The result is empty only if no such
        caller exists.
        """
        if other.everybody:
            return ()
        if self.everybody:
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


NOBODY: Final = Access()


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
            return NOBODY
        requirement = route.requirement
        owner = None if requirement.owner is None else dict(route.captures).get(requirement.owner)
        key = (requirement.any, requirement.all, owner, route.authentication == "required", requirement.names_roles)
        access = self._known.get(key)
        if access is None:
            access = self._known[key] = self._made(route, owner)
        return access

    def _made(self, route: Route, owner: int | None) -> Access:
        requirement = route.requirement
        asks = requirement.names_roles or requirement.owner is not None
        if not asks:
            return Access(everybody=route.authentication != "required", clauses=ANYBODY_SIGNED_IN)
        if not requirement.names_roles:
            return Access(owner=owner)
        clauses = [] if requirement.any is None else [self._clause(requirement.any)]
        clauses += [self._clause({role}) for role in requirement.all or ()]
        return Access(clauses=_shortest(clauses), owner=None if not clauses else owner)

    def _clause(self, roles: Iterable[str]) -> Roles:
        """The given roles and every role that implies one of them."""
        found: set[str] = set()
        for role in roles:
            found |= {role} | self._amount_to.get(role, set())
        return frozenset(found)


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
