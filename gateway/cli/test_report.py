"""The report of `gateway test`, as text and as JSON."""

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import TYPE_CHECKING, Any

import click

from gateway.analysis.policy_tests import Expectation
from gateway.analysis.simulate import SimulationResult
from gateway.analysis.test_runner import PolicyTestReport, Result
from gateway.cli.explain_json import document
from gateway.cli.explain_text import lines, place_of
from gateway.policy.route import Route
from gateway.settings.model import Settings

# Only an annotation. Imported for a report as JUnit XML.
if TYPE_CHECKING:
    from xml.etree import ElementTree


def as_lines(report: PolicyTestReport, settings: Settings, min_coverage: float) -> Iterator[str]:
    """The failures with their explanations, the routes without a test, and a summary."""
    for result in report.failures:
        yield from _failure(result, settings)
        yield ""
    if report.untouched:
        yield f"no test touched {_count(len(report.untouched), 'route')}:"
        for route in report.untouched:
            yield f"  {route.name}  {click.style(place_of(route), dim=True)}"
        yield ""
    yield _sum(report, min_coverage)


def expected(expectation: Expectation) -> str:
    """The expected decision, in words."""
    route = f" by the route {expectation.route}" if expectation.route is not None else ""
    if expectation.allowed:
        return f"allowed{route}"
    status = f" with {expectation.status}" if expectation.status is not None else ""
    return f"refused{status}{route}"


def found(verdict: SimulationResult) -> str:
    """The decision, in the same words."""
    route = f" by the route {verdict.route.name}" if verdict.route is not None else ""
    if verdict.refusal is None:
        return f"allowed{route}"
    return f"refused with {verdict.refusal.status} {verdict.refusal.code}{route}"


def as_document(report: PolicyTestReport, settings: Settings, *, fine: bool) -> dict[str, Any]:
    """The report as JSON values. Each failure includes the explanation in the format of `gateway explain --json`."""
    return {
        "fine": fine,
        "tests": len({result.test.position for result in report.results}),
        "requests": len(report.results),
        "failures": [_failure_document(result, settings) for result in report.failures],
        "coverage": {
            "routes": report.routes,
            "percent": report.coverage,
            "untouched": [_route_document(route) for route in report.untouched],
        },
    }


def _failure(result: Result, settings: Settings) -> Iterator[str]:
    assert result.failure is not None
    position = result.expectation.position
    place = f"{position.file}:{position.line}:{position.column}"
    yield f"{click.style('FAILED', fg='red', bold=True)} {place}: {result.test.name}: {result.expectation.text}"
    yield f"  expected    {expected(result.expectation)}"
    yield f"  found       {click.style(found(result.verdict), fg='red')}"
    for line in lines(result.failure, settings):
        yield f"  {line}"


def _sum(report: PolicyTestReport, min_coverage: float) -> str:
    failures, requests = len(report.failures), len(report.results)
    tests = len({result.test.position for result in report.results})
    passed = f"{_count(tests, 'test')}, {_count(requests, 'request')}: "
    passed += f"{failures} not as expected" if failures else "all as expected"
    touched = report.routes - len(report.untouched)
    covered = f"{touched} of {_count(report.routes, 'route')} touched ({report.coverage:.1f}%"
    too_little = report.coverage < min_coverage
    covered += f", less than {min_coverage:g}%)" if too_little else ")"
    return click.style(f"{passed}; {covered}", fg="red" if failures or too_little else "green")


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'s' if number != 1 else ''}"


def _failure_document(result: Result, settings: Settings) -> dict[str, Any]:
    assert result.failure is not None
    position = result.expectation.position
    return {
        "file": position.file,
        "line": position.line,
        "column": position.column,
        "test": result.test.name,
        "request": result.expectation.text,
        "expected": expected(result.expectation),
        "found": found(result.verdict),
        "explanation": document(result.failure, settings),
    }


def _route_document(route: Route) -> dict[str, Any]:
    position = route.position
    return {
        "route": route.name,
        "file": position.file if position is not None else None,
        "line": position.line if position is not None else None,
    }


def junit_xml(report: PolicyTestReport, settings: Settings) -> bytes:
    """The report as UTF-8."""
    from xml.etree import ElementTree  # Imported here: only CI asks for XML.

    root = ElementTree.Element("testsuites", _counts("gateway test", report.results))
    for file, results in groupby(report.results, lambda result: result.expectation.position.file):
        group = list(results)
        suite = ElementTree.SubElement(root, "testsuite", _counts(file, group))
        for result in group:
            _add_case(suite, result, settings)
    ElementTree.indent(root)
    document: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return document


def _counts(name: str, results: Iterable[Result]) -> dict[str, str]:
    listed = list(results)
    failures = sum(result.failure is not None for result in listed)
    return {"name": name, "tests": str(len(listed)), "failures": str(failures), "errors": "0"}


def _add_case(suite: "ElementTree.Element", result: Result, settings: Settings) -> None:
    expectation = result.expectation
    verb = "allow" if expectation.allowed else "deny"
    attributes = {
        "classname": result.test.name,
        "name": f"{verb} {expectation.text}",
        "file": expectation.position.file,
        "line": str(expectation.position.line),
    }
    from xml.etree import ElementTree  # Imported here, as above.

    case = ElementTree.SubElement(suite, "testcase", attributes)
    if result.failure is not None:
        message = f"expected {expected(expectation)}, found {found(result.verdict)}"
        failure = ElementTree.SubElement(case, "failure", {"message": message})
        failure.text = click.unstyle("\n".join(lines(result.failure, settings)))
