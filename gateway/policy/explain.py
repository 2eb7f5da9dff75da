"""Why a request is decided as it is: the verdict, and around it everything that led there.

The decision is `verdict.decide`'s and nobody else's. What is added walks the same trees to tell which other routes
could have taken the path and why they lost; a test holds the two together. Nothing of this is on the way of a request.
"""

from typing import Final, Literal, NamedTuple

from gateway.errors import Refusal
from gateway.policy.candidates import Candidate, candidates
from gateway.policy.hierarchy import RoleHierarchy
from gateway.policy.matcher import Policy
from gateway.policy.rewriting import sent_path
from gateway.policy.route import NOTHING_MORE, Requirement, Route
from gateway.policy.shadows import shadows_of
from gateway.policy.verdict import Asked, Caller, Verdict, decide
from gateway.wire.paths import decoded_segment

State = Literal["active", "disabled", "unknown"]


class Person(NamedTuple):
    """A signed-in caller as an explanation is told of one. `own_roles` are those of the record; `id` is "" for
    somebody in particular of whom nothing but roles is known, so that no route takes them for an owner."""

    id: str = ""
    own_roles: frozenset[str] = frozenset()
    email: str = ""
    state: State = "active"


class Held(NamedTuple):
    """A role that a caller has, and `by`: the chain of roles that implies it, its own first; empty for an own one."""

    role: str
    by: tuple[str, ...]


class Tried(NamedTuple):
    """A shadow rule that would have a part in the decision, and what it would be with shadow rules in force."""

    rule: Route
    verdict: Verdict


class Explanation(NamedTuple):
    """`person` is None for an anonymous caller. `reason` is the decision in words. `sent` is the request target that
    the upstream would be sent, None where nothing is sent on. `tried` is None where no shadow rule is about this."""

    asked: Asked
    verdict: Verdict
    reason: str
    candidates: tuple[Candidate, ...]
    person: Person | None
    held: tuple[Held, ...]
    sent: bytes | None
    tried: Tried | None = None


SIGNED_IN: Final = Person()
"""Somebody who is signed in and has no role."""


def explain(policy: Policy, roles: RoleHierarchy, asked: Asked, person: Person | None) -> Explanation:
    """The verdict on a request of a person, and why."""
    verdict = decide(policy, asked, caller_of(roles, person))
    return explained(policy, roles, asked, person, verdict)


def explained(
    policy: Policy, roles: RoleHierarchy, asked: Asked, person: Person | None, verdict: Verdict
) -> Explanation:
    """The explanation of a verdict that has been given."""
    held = () if person is None else tuple(Held(*each) for each in sorted(roles.chains(person.own_roles).items()))
    return Explanation(
        asked,
        verdict,
        reason=_reason(verdict, person),
        candidates=candidates(policy, asked, verdict),
        person=person,
        held=held,
        sent=_sent(verdict),
        tried=_tried(policy, asked, caller_of(roles, person)),
    )


def _tried(policy: Policy, asked: Asked, caller: Caller | None) -> Tried | None:
    shadows = shadows_of(policy)
    if shadows is None:
        return None
    verdict = decide(shadows.trial, asked, caller)
    rule = None
    if verdict.route is not None:
        rule = shadows.rule(verdict.route.name)
    elif verdict.target is not None and verdict.refusal is not None:
        rule = shadows.without_route(verdict.refusal.code, verdict.host, verdict.target)
    return None if rule is None or verdict.answered else Tried(rule, verdict)


def caller_of(roles: RoleHierarchy, person: Person | None) -> Caller | None:
    """A person as the decision looks at one."""
    return None if person is None else Caller(person.id, roles.expand(person.own_roles), person.state == "active")


def _sent(verdict: Verdict) -> bytes | None:
    route, target = verdict.route, verdict.target
    if not verdict.is_allowed or verdict.answered or route is None or route.upstream is None or target is None:
        return None
    path = sent_path(route.rewrite, verdict.captures, target.path)
    return path if target.query is None else b"%b?%b" % (path, target.query)


# ---- the decision in words


def _reason(verdict: Verdict, person: Person | None) -> str:
    if verdict.refusal is not None:
        return _refused_because(verdict.refusal)
    assert verdict.route is not None, "what no route takes is refused"
    if verdict.answered:
        return "the gateway answers the preflight itself"
    return _allowed_because(verdict.route, verdict, person)


def _refused_because(refusal: Refusal) -> str:
    return f"served are {refusal.allow}" if refusal.allow is not None else refusal.reason or refusal.detail


def _allowed_because(route: Route, verdict: Verdict, person: Person | None) -> str:
    caller, requirement = verdict.caller, route.requirement
    if route.condition:
        return f"the route is open to everyone, and its endpoint asks for {route.condition}"
    if route.authentication == "none":
        return "the route is open to everyone, and nobody is looked up"
    if caller is None:
        ignored = "; the account may not sign in, so the caller is anonymous" if person is not None else ""
        return f"the route is open to anonymous callers too{ignored}"
    if route.authentication == "optional":
        return "the route is open to everyone, and the upstream is told who is signed in"
    if requirement == NOTHING_MORE:
        return "the route asks for a signed-in user and nothing more"
    if requirement.owner is not None and not _meets_roles(requirement, caller):
        return f"the caller is the user whose id stands in the capture '{requirement.owner}'"
    return f"the caller has {_met(requirement, caller)}"


def _meets_roles(requirement: Requirement, caller: Caller) -> bool:
    if not requirement.names_roles:
        return False
    return (requirement.any is None or bool(requirement.any & caller.roles)) and (
        requirement.all is None or requirement.all <= caller.roles
    )


def _met(requirement: Requirement, caller: Caller) -> str:
    having = []
    if requirement.any is not None:
        having.append(_named(requirement.any & caller.roles))
    if requirement.all is not None:
        having.append(f"all of {_named(requirement.all)}")
    return " and ".join(having)


def _named(roles: frozenset[str]) -> str:
    return f"the role{'s' if len(roles) > 1 else ''} {', '.join(sorted(roles))}"


def capture_texts(verdict: Verdict) -> dict[str, str]:
    """The captures as they read once decoded."""
    return {name: decoded_segment(value).decode("utf-8", "replace") for name, value in verdict.captures}
