"""Explain a decision: the simulation result, and the rules that led to it.

`verdict.decide` alone decides. This module walks the same trees to list the other matching routes and why they lost. A
test compares the two. The proxy does not use this module for requests.
"""

from typing import Final, Literal, NamedTuple

from gateway.analysis.candidates import RouteCandidate, candidates
from gateway.analysis.simulate import PolicyRequest, SimulationResult, Subject, simulate
from gateway.errors import Refusal
from gateway.identity.user import CredentialKind
from gateway.policy.policy import Policy
from gateway.policy.rewrite import sent_path
from gateway.policy.roles import RoleHierarchy
from gateway.policy.route import NOTHING_MORE, Requirement, Route
from gateway.policy.shadow import Shadows
from gateway.wire.paths import decoded_segment

State = Literal["active", "disabled", "unknown"]


class Credential(NamedTuple):
    """The credential of a request: its kind, and the age of the sign-in in seconds."""

    kind: CredentialKind = "token"
    age: float = 0.0


class Person(NamedTuple):
    """A signed-in user in an explanation. `own_roles` are the roles of the record, without implied ones. `id` is "" for
    a hypothetical user with given roles, who owns no path."""

    id: str = ""
    own_roles: frozenset[str] = frozenset()
    email: str = ""
    state: State = "active"
    email_verified: bool = True
    credential: Credential = Credential()


class HeldRole(NamedTuple):
    """A role of the user. `by` is the chain of roles that implies it, from an own role on; empty for own roles."""

    role: str
    by: tuple[str, ...]


class ShadowTrial(NamedTuple):
    """A shadow rule that would take part in the decision, and the result with shadow rules enforced."""

    rule: Route
    verdict: SimulationResult


class Explanation(NamedTuple):
    """`person` is None for an anonymous request. `reason` is the decision in words. `sent` is the request target for
    the upstream, None if nothing is forwarded. `tried` is None if no shadow rule concerns the request. `proof` tells
    whether the request proves that it comes from an own page; None without a cookie."""

    request: PolicyRequest
    verdict: SimulationResult
    reason: str
    candidates: tuple[RouteCandidate, ...]
    person: Person | None
    held: tuple[HeldRole, ...]
    sent: bytes | None
    tried: ShadowTrial | None = None
    proof: str | None = None


SIGNED_IN: Final = Person()
"""A signed-in user without roles."""


def explain(
    policy: Policy, roles: RoleHierarchy, request: PolicyRequest, person: Person | None, shadows: Shadows | None = None
) -> Explanation:
    """Decide a request of `person`, and explain the decision. `shadows` are the shadow rules of the policy."""
    verdict = simulate(policy, request, caller_of(roles, person))
    return explained(policy, roles, request, person, verdict, shadows)


def explained(
    policy: Policy,
    roles: RoleHierarchy,
    request: PolicyRequest,
    person: Person | None,
    verdict: SimulationResult,
    shadows: Shadows | None = None,
) -> Explanation:
    """Explain a decision already made."""
    held = () if person is None else tuple(HeldRole(*each) for each in sorted(roles.chains(person.own_roles).items()))
    return Explanation(
        request,
        verdict,
        reason=_reason(verdict, person),
        candidates=candidates(policy, request, verdict),
        person=person,
        held=held,
        sent=_sent(verdict),
        tried=None if shadows is None else _tried(shadows, request, caller_of(roles, person)),
        proof=_proof(policy, request, person),
    )


def _proof(policy: Policy, request: PolicyRequest, person: Person | None) -> str | None:
    if person is None or person.credential.kind != "session" or policy.browsers is None:
        return None
    missing = policy.browsers.origins.missing_proof(request.page_fields)
    if missing:
        return f"none: {missing}"
    listed = request.origin is not None and policy.browsers.origins.lists(request.origin)
    return "Origin is listed" if listed else "Sec-Fetch-Site is same-origin"


def _tried(shadows: Shadows, request: PolicyRequest, caller: Subject | None) -> ShadowTrial | None:
    verdict = simulate(shadows.shadow_policy, request, caller)
    rule = None
    if verdict.route is not None:
        rule = shadows.rule(verdict.route.name)
    elif verdict.target is not None and verdict.refusal is not None:
        rule = shadows.rule_causing_miss(verdict.refusal.code, verdict.host, verdict.target)
    return None if rule is None or verdict.answered else ShadowTrial(rule, verdict)


def caller_of(roles: RoleHierarchy, person: Person | None) -> Subject | None:
    """The person as a caller for `simulate`."""
    if person is None:
        return None
    kind, age = person.credential
    expanded = roles.expand(person.own_roles)
    return Subject(person.id, expanded, person.state == "active", kind, age, person.email_verified)


def _sent(verdict: SimulationResult) -> bytes | None:
    route, target = verdict.route, verdict.target
    if not verdict.is_allowed or verdict.answered or route is None or route.upstream is None or target is None:
        return None
    path = sent_path(route.rewrite, verdict.captures, target.path)
    return path if target.query is None else b"%b?%b" % (path, target.query)


# ---- the decision in words


def _reason(verdict: SimulationResult, person: Person | None) -> str:
    if verdict.refusal is not None:
        return _refused_because(verdict.refusal)
    assert verdict.route is not None, "a request without a route is refused"
    if verdict.answered:
        return "the gateway answers the preflight itself"
    return _allowed_because(verdict.route, verdict, person)


def _refused_because(refusal: Refusal) -> str:
    return f"the path serves {refusal.allow}" if refusal.allow is not None else refusal.reason or refusal.detail


def _allowed_because(route: Route, verdict: SimulationResult, person: Person | None) -> str:
    caller, requirement = verdict.caller, route.requirement
    if route.condition:
        return f"the route is open to everyone, and its endpoint asks for {route.condition}"
    if route.authentication == "none":
        return "the route is open to everyone, and no user is looked up"
    if caller is None:
        ignored = "" if person is None else f"; {_ignored_because(person)}, so the caller is anonymous"
        return f"the route is open to anonymous callers too{ignored}"
    if route.authentication == "optional":
        return "the route is open to everyone, and the upstream receives the user's identity"
    if requirement == NOTHING_MORE and route.conditions is None:
        return "the route requires a signed-in user and nothing more"
    if requirement == NOTHING_MORE:
        return "the caller is signed in, and the credential meets the conditions of the route"
    if requirement.owner is not None and not _meets_roles(requirement, caller):
        return f"the caller is the user whose id is in the capture '{requirement.owner}'"
    return f"the caller has {_met(requirement, caller)}"


def _ignored_because(person: Person) -> str:
    return "the account cannot sign in" if person.state != "active" else "the credential does not count here"


def _meets_roles(requirement: Requirement, caller: Subject) -> bool:
    if not requirement.names_roles:
        return False
    return (requirement.any is None or bool(requirement.any & caller.roles)) and (
        requirement.all is None or requirement.all <= caller.roles
    )


def _met(requirement: Requirement, caller: Subject) -> str:
    having = []
    if requirement.any is not None:
        having.append(_named(requirement.any & caller.roles))
    if requirement.all is not None:
        having.append(f"all of {_named(requirement.all)}")
    return " and ".join(having)


def _named(roles: frozenset[str]) -> str:
    return f"the role{'s' if len(roles) > 1 else ''} {', '.join(sorted(roles))}"


def capture_texts(verdict: SimulationResult) -> dict[str, str]:
    """The captures, percent-decoded."""
    return {name: decoded_segment(value).decode("utf-8", "replace") for name, value in verdict.captures}
