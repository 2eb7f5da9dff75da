"""Who may pass a rule, in a form that can be compared exactly, whatever the roles imply.

What a caller brings is being anonymous, or the roles of his own, or being the user whose id stands in a segment of the
path. More never gets one less. So a question about roles is a monotone one, and every such question has exactly one
shortest form as *clauses*: sets of roles, from each of which one must have at least one. Implied roles are worked into
the clauses: where an admin implies editor, asking for an editor is the clause {admin, editor}.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from gateway.policy.hierarchy import RoleHierarchy
from gateway.policy.route import Route

Roles = frozenset[str]
Clauses = frozenset[Roles]

ANYBODY_SIGNED_IN: Final[Clauses] = frozenset()
NO_ROLES_WILL_DO: Final[Clauses] = frozenset({frozenset()})
# More minimal sets of roles than anybody reads; questions with exponentially many of them can be written.
MOST_ROLE_SETS: Final = 32


@dataclass(frozen=True, slots=True)
class Caller:
    """One kind of caller, with nothing more than it takes: anonymous, or signed in with some roles of his own, or the
    user whose id stands in the segment `owner` of the path, counted from 1."""

    anonymous: bool = False
    roles: Roles = frozenset()
    owner: int | None = None


ANONYMOUS: Final = Caller(anonymous=True)


@dataclass(frozen=True, slots=True)
class Access:
    """Who passes: everybody; or who is signed in and meets all `clauses`, or is the `owner`."""

    everybody: bool = False
    clauses: Clauses = NO_ROLES_WILL_DO
    owner: int | None = None

    def admits(self, caller: Caller) -> bool:
        """Whether this caller passes."""
        if self.everybody or caller.anonymous:
            return self.everybody
        if self.owner is not None and self.owner == caller.owner:
            return True
        return all(not clause.isdisjoint(caller.roles) for clause in self.clauses)

    @property
    def is_nobody(self) -> bool:
        """Whether there is no one who passes."""
        return not self.everybody and self.owner is None and frozenset() in self.clauses

    def beyond(self, other: "Access") -> tuple[Caller, ...]:
        """Those who pass here and not there: of each kind of caller the ones with the fewest roles. Everybody who
        passes here alone has what one of them has. Empty only where there is nobody."""
        if other.everybody:
            return ()
        if self.everybody:
            return (ANONYMOUS,)
        kinds = [Caller(roles=roles) for roles in self._role_sets_beyond(other)]
        if self.owner is not None and self.owner != other.owner and frozenset() not in (each.roles for each in kinds):
            owner = Caller(owner=self.owner)
            kinds += () if other.admits(owner) else (owner,)
        return tuple(kinds)

    def _role_sets_beyond(self, other: "Access") -> list[Roles]:
        """The minimal sets of roles that pass here and not there; at most MOST_ROLE_SETS of them."""
        # A question implies a clause only if one of its own clauses is a part of that clause.
        failed = [clause for clause in other.clauses if not any(mine <= clause for mine in self.clauses)]
        if not failed or frozenset() in self.clauses:
            return []
        found = [roles for roles in _minimal_sets(self.clauses) if not other.admits(Caller(roles=roles))]
        return found or [self._witness(clause) for clause in failed[:1]]

    def _witness(self, clause: Roles) -> Roles:
        """Some roles that pass here without any of a clause."""
        return frozenset(min(mine - clause) for mine in self.clauses)


NOBODY: Final = Access()


class AccessRules:
    """The access of routes, under one hierarchy of roles."""

    def __init__(self, roles: Mapping[str, Iterable[str]] | None) -> None:
        hierarchy = RoleHierarchy(roles)
        self._amount_to: dict[str, set[str]] = {}
        for role in roles or {}:
            for implied in hierarchy.expand(frozenset({role})):
                self._amount_to.setdefault(implied, set()).add(role)
        self._known: dict[object, Access] = {}

    def of(self, route: Route) -> Access:
        """The access of a route. One that is not served, or refuses every caller, admits none."""
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
        """The roles of which each amounts to one of these."""
        found: set[str] = set()
        for role in roles:
            found |= {role} | self._amount_to.get(role, set())
        return frozenset(found)


def _shortest(clauses: Iterable[Roles]) -> Clauses:
    """The clauses without those that a shorter one makes needless."""
    kept: list[Roles] = []
    for clause in sorted(set(clauses), key=len):
        if not any(shorter <= clause for shorter in kept):
            kept.append(clause)
    return frozenset(kept)


def _minimal_sets(clauses: Clauses) -> Iterator[Roles]:
    """The minimal sets of roles that meet all clauses: all of them, or at least the first MOST_ROLE_SETS found."""
    sets: list[Roles] = [frozenset()]
    for clause in sorted(clauses, key=lambda clause: (len(clause), sorted(clause))):
        grown = {each if each & clause else each | {role} for each in sets for role in sorted(clause)}
        ordered = sorted(grown, key=lambda roles: (len(roles), sorted(roles)))
        sets = [each for each in ordered if not any(other < each for other in ordered)][: 4 * MOST_ROLE_SETS]
    yield from sets[:MOST_ROLE_SETS]
