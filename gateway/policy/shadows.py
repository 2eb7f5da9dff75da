"""Shadow rules: a second policy, in which they are in force, to be asked what they would decide.

It stands beside the enforced one, which has never heard of it. In it a shadow rule takes what it would take: the place
of an enforced rule with the same pattern, for the methods that it serves, and paths of broader ones; a host that it is
the first to name. What comes out is told as the decision of the one rule that it is due to.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Final

from gateway.policy.matcher import Policy
from gateway.policy.patterns import Segments
from gateway.policy.places import places_for
from gateway.policy.route import Route
from gateway.wire.paths import Target, decoded_segment

_Spot = tuple[bytes | None, tuple[Segments, bool]]


class Shadows:
    """The shadow rules of a policy. `trial` is the policy with them in force."""

    def __init__(self, policy: Policy) -> None:
        self._rules: Mapping[str, Route] = {route.name: route for route in policy.routes if route.shadow}
        self._enforced_too = {_spot(route) for route in policy.routes if not route.shadow and route.methods is None}
        self._hosts = policy.hosts
        self.trial: Final = Policy(_in_force(policy), policy.own, relaxed=policy.relaxed)

    def rule(self, name: str) -> Route | None:
        """The shadow rule by which the trial decided; None if that was an enforced one."""
        return self._rules.get(name)

    def without_route(self, code: str, host: bytes | None, target: Target) -> Route | None:
        """The shadow rule to which it is due that the trial found no route, which `code` says; None if to none."""
        if host in self.trial.hosts - self._hosts:
            return next(rule for rule in self._rules.values() if rule.host == host)
        return self._served_otherwise(host, target) if code == "method_not_allowed" else None

    def _served_otherwise(self, host: bytes | None, target: Target) -> Route | None:
        """The shadow rule whose place takes a path for methods that it does not serve."""
        segments = [decoded_segment(segment) for segment in target.path.split(b"/")[1:]]
        if not segments[-1]:
            segments.pop()
        if next(places_for(self.trial.own_tree, segments), None) is not None:
            return None
        place = next(places_for(self.trial.tree(host), segments), None)
        if place is None:
            return None
        rule = next((self._rules[route.name] for route in place.routes if route.name in self._rules), None)
        # Where an enforced rule for all methods has the same pattern, it goes on to serve the others.
        return None if rule is None or _spot(rule) in self._enforced_too else rule


@lru_cache(maxsize=1)
def shadows_of(policy: Policy) -> Shadows | None:
    """The shadow rules of a policy; None where it has none, so that nobody pays for them. Those of the last policy are
    kept: they are made when it is loaded, beside the loop, and asked for when it comes into force."""
    return Shadows(policy) if any(route.shadow for route in policy.routes) else None


def _in_force(policy: Policy) -> Iterator[Route]:
    """The routes as they would be: shadow rules, and of the others what they leave."""
    taking: dict[_Spot, list[Route]] = {}
    for route in policy.routes:
        if route.shadow:
            taking.setdefault(_spot(route), []).append(route)
            yield replace(route, shadow=False)
    for route in policy.routes:
        if not route.shadow:
            rules = taking.get(_spot(route), [])
            if not any(rule.shares_method(route) for rule in rules):
                yield route
            elif route.methods is not None:
                left = frozenset(each for each in route.methods if not any(rule.serves(each) for rule in rules))
                if left:
                    yield replace(route, methods=left)


def _spot(route: Route) -> _Spot:
    return route.host, route.shape.shape
