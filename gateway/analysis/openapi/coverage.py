"""Compare a policy with an OpenAPI document: operations without a rule, and rules without an operation.

Operations at built-in paths never reach the API, so no rule serves them.
"""

from typing import NamedTuple

from gateway.analysis.openapi.draft import pattern_of
from gateway.analysis.openapi.spec import Spec, SpecOperation, UnreadablePath
from gateway.analysis.regions import front_of, place_of_path
from gateway.policy.patterns import Pattern, PatternError
from gateway.policy.policy import Policy
from gateway.policy.route import Route

# Replaces a capture. Patterns hardly ever contain this segment as a literal.
_ANY = b"\x01"


class Coverage(NamedTuple):
    """The differences between a policy and a document. Shadow rules serve nothing."""

    without_rule: tuple[SpecOperation, ...]
    without_operation: tuple[Route, ...]
    own: tuple[SpecOperation, ...]
    unreadable: tuple[UnreadablePath, ...]


def coverage(policy: Policy, spec: Spec) -> Coverage:
    """Compare a policy with a document.

    A rule on any host serves an operation that it matches. A rule has an operation if one with the same method shares a
    path with it.
    """
    patterns = [(operation, _pattern(operation)) for operation in spec.operations]
    served: set[Route] = set()
    missing, own = [], []
    for operation, pattern in patterns:
        rules = set() if pattern is None else _rules(policy, pattern, operation.method.encode())
        served |= rules
        if not rules:
            missing.append(operation)
        elif all(rule.endpoint is not None for rule in rules):
            own.append(operation)
    idle = (route for route in policy.routes if not route.shadow and route not in served)
    left = [route for route in idle if not any(_have_in_common(route, *each) for each in patterns)]
    return Coverage(tuple(missing), tuple(left), tuple(own), spec.unreadable_paths)


def _pattern(operation: SpecOperation) -> Pattern | None:
    try:
        return pattern_of(operation.path)[0]
    except PatternError:
        return None  # the gateway would refuse every request for it


def _rules(policy: Policy, pattern: Pattern, method: bytes) -> set[Route]:
    """The rules that match an operation on any host, including built-in endpoints."""
    segments = [_ANY if segment is None else segment for segment in pattern.segments]
    found = set()
    for host in (None, *policy.hosts):
        place = place_of_path(front_of(policy, host), segments)
        route = None if place is None else place.route_for(method)
        if route is not None and route.is_served:
            found.add(route)
    return found


def _have_in_common(route: Route, operation: SpecOperation, pattern: Pattern | None) -> bool:
    if pattern is None or not route.serves(operation.method.encode()):
        return False
    mine, its = route.shape.segments, pattern.segments
    if len(its) < len(mine) or (len(its) > len(mine) and not route.shape.has_rest):
        return False
    return all(one is None or other is None or one == other for one, other in zip(mine, its, strict=False))
