"""The JUnit XML report of `gateway test` for CI systems: a suite per file, a case per request."""

from collections.abc import Iterable
from itertools import groupby
from xml.etree import ElementTree

import click

from gateway.analysis.test_runner import PolicyTestReport, Result
from gateway.cli.explain_text import lines
from gateway.cli.test_report import expected, found
from gateway.settings.model import Settings


def junit_xml(report: PolicyTestReport, settings: Settings) -> bytes:
    """The report as UTF-8."""
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


def _add_case(suite: ElementTree.Element, result: Result, settings: Settings) -> None:
    expectation = result.expectation
    verb = "allow" if expectation.allowed else "deny"
    attributes = {
        "classname": result.test.name,
        "name": f"{verb} {expectation.text}",
        "file": expectation.position.file,
        "line": str(expectation.position.line),
    }
    case = ElementTree.SubElement(suite, "testcase", attributes)
    if result.failure is not None:
        message = f"expected {expected(expectation)}, found {found(result.verdict)}"
        failure = ElementTree.SubElement(case, "failure", {"message": message})
        failure.text = click.unstyle("\n".join(lines(result.failure, settings)))
