"""Shadow rules: a second policy in which they are enforced, to record their decisions.

The enforced policy contains no shadow rules. In the trial policy a shadow rule takes effect as if enforced: it replaces
an enforced rule with the same pattern for the methods it serves, takes paths from broader patterns, and can be the
first to name a host. Each result is attributed to one rule.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Final

from gateway.policy.patterns import Segments
from gateway.policy.policy import Policy
from gateway.policy.route import Route
from gateway.policy.trie_walk import places_for
from gateway.wire.paths import RequestTarget, decoded_segment

_Spot = tuple[bytes | None, tuple[Segments, bool]]


class Shadows:
    """The shadow rules of a policy. `shadow_policy` is the policy that enforces them."""

    def __init__(self, policy: Policy) -> None:
        self._rules: Mapping[str, Route] = {route.name: route for route in policy.routes if route.shadow}
        self._enforced_too = {
            _route_key(route) for route in policy.routes if not route.shadow and route.methods is None
        }
        self._hosts = policy.hosts
        self.shadow_policy: Final = Policy(
            _in_force(policy), policy.own, relaxed=policy.relaxed, served=policy.served, browsers=policy.browsers
        )

    def rule(self, name: str) -> Route | None:
        """The shadow rule with this name; None for an enforced rule."""
        return self._rules.get(name)

    def rule_causing_miss(self, code: str, host: bytes | None, target: RequestTarget) -> Route | None:
        """The shadow rule that causes the trial to find no route, with refusal `code`. None if no shadow rule does."""
        if host in self.shadow_policy.hosts - self._hosts:
            return next(rule for rule in self._rules.values() if rule.host == host)
        return self._served_otherwise(host, target) if code == "method_not_allowed" else None

    def _served_otherwise(self, host: bytes | None, target: RequestTarget) -> Route | None:
        """The shadow rule that takes a path but serves other methods."""
        segments = [decoded_segment(segment) for segment in target.path.split(b"/")[1:]]
        if not segments[-1]:
            segments.pop()
        if next(places_for(self.shadow_policy.own_tree, segments), None) is not None:
            return None
        place = next(places_for(self.shadow_policy.tree(host), segments), None)
        if place is None:
            return None
        rule = next((self._rules[route.name] for route in place.routes if route.name in self._rules), None)
        # An enforced rule for all methods with the same pattern still serves the other methods.
        return None if rule is None or _route_key(rule) in self._enforced_too else rule


def shadows_of(policy: Policy) -> Shadows | None:
    """The shadow rules of a policy; None if it has none."""
    return Shadows(policy) if any(route.shadow for route in policy.routes) else None


def _in_force(policy: Policy) -> Iterator[Route]:
    """The routes with shadow rules enforced: shadow rules, and the remaining methods of the enforced rules."""
    taking: dict[_Spot, list[Route]] = {}
    for route in policy.routes:
        if route.shadow:
            taking.setdefault(_route_key(route), []).append(route)
            yield replace(route, shadow=False)
    for route in policy.routes:
        if not route.shadow:
            rules = taking.get(_route_key(route), [])
            if not any(rule.shares_method(route) for rule in rules):
                yield route
            elif route.methods is not None:
                left = frozenset(each for each in route.methods if not any(rule.serves(each) for rule in rules))
                if left:
                    yield replace(route, methods=left)


def _route_key(route: Route) -> _Spot:
    return route.host, route.shape.shape
