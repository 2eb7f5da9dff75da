"""Run policy tests: compare expectations with decisions, and measure route coverage."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from gateway.analysis.explain import Explanation, caller_of, explained
from gateway.analysis.policy_tests import Expectation, PolicyTest
from gateway.analysis.simulate import SimulationResult, simulate
from gateway.errors import Problem
from gateway.policy.policy import Policy
from gateway.policy.roles import RoleHierarchy
from gateway.policy.route import Route
from gateway.policy.shadow import Shadows
from gateway.settings.model import Settings
from gateway.settings.positions import Position
from gateway.settings.reader import known

_SEE_OTHER: Final = 303  # The expected request is that of a browser that navigates.


class Result(NamedTuple):
    """The result of one expectation. `failure` is None if it is met."""

    test: PolicyTest
    expectation: Expectation
    verdict: SimulationResult
    failure: Explanation | None


class PolicyTestReport(NamedTuple):
    """All results in file order, the enforced routes that no request reached, and the number of enforced routes."""

    results: tuple[Result, ...]
    untouched: tuple[Route, ...]
    routes: int

    @property
    def failures(self) -> list[Result]:
        return [result for result in self.results if result.failure is not None]

    @property
    def coverage(self) -> float:
        """The percentage of routes that some request reached, truncated to one decimal: 100 means all of them."""
        touched = self.routes - len(self.untouched)
        return (1000 * touched // self.routes) / 10 if self.routes else 100.0


def run_policy_tests(
    policy: Policy, roles: RoleHierarchy, tests: Iterable[PolicyTest], shadows: Shadows | None = None
) -> PolicyTestReport:
    """Run tests against a policy. Failures are explained with its shadow rules."""
    results = tuple(_results(policy, roles, tests, shadows))
    enforced = [route for route in policy.routes if not route.shadow]
    touched = {result.verdict.route for result in results}
    return PolicyTestReport(results, tuple(route for route in enforced if route not in touched), len(enforced))


def unknown_names(settings: Settings, policy: Policy, tests: Sequence[PolicyTest]) -> list[Problem]:
    """Roles and routes that tests name but the configuration does not contain. Their requests would be refused, so a
    misspelt name would satisfy every `deny`."""
    routes = {route.name for route in (*policy.own, *policy.routes)}
    problems = []
    for test in tests:
        for number, role in enumerate(test.as_.roles if test.as_ is not None else ()):
            if settings.roles is not None and role not in settings.roles:
                message = f"is not declared in the configuration, found '{role}' ({known(settings.roles)})"
                problems.append(_problem(test.position, f"{test.key}.as.roles[{number}]", message))
        for each in test.expectations:
            if each.route is not None and each.route not in routes:
                message = f"names no route of the configuration, found '{each.route}' ({known(routes)})"
                problems.append(_problem(each.position, test.key, message))
    return problems


def _problem(position: Position, key: str, message: str) -> Problem:
    return Problem(position.file, position.line, position.column, key, message)


def _results(
    policy: Policy, roles: RoleHierarchy, tests: Iterable[PolicyTest], shadows: Shadows | None
) -> Iterator[Result]:
    for test in tests:
        person = test.person
        caller = caller_of(roles, person)
        for expectation in test.expectations:
            request = test.request_of(expectation)
            verdict = simulate(policy, request, caller)
            failure = None
            if not _is_met(expectation, verdict):
                failure = explained(policy, roles, request, person, verdict, shadows)
            yield Result(test, expectation, verdict, failure)


def _is_met(expectation: Expectation, verdict: SimulationResult) -> bool:
    if expectation.allowed != verdict.is_allowed:
        return False
    if expectation.status == _SEE_OTHER:
        return verdict.navigation is not None and _is_of_route(expectation, verdict)
    if expectation.status is not None and expectation.status != verdict.status:
        return False
    return _is_of_route(expectation, verdict)


def _is_of_route(expectation: Expectation, verdict: SimulationResult) -> bool:
    found = verdict.route.name if verdict.route is not None else None
    return expectation.route is None or expectation.route == found
