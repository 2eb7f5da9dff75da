"""`gateway check`: report all problems and warnings of a configuration, and compare it with an OpenAPI document."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import click

from gateway.analysis.lint import lint
from gateway.analysis.openapi.coverage import Coverage, coverage
from gateway.analysis.openapi.spec import SpecOperation, read_spec
from gateway.cli.configuration import Findings, config_option, examined, json_option
from gateway.cli.output import print_json, say
from gateway.cli.program import FINE, NO, UNUSABLE
from gateway.errors import Problem
from gateway.observability.escaping import printable
from gateway.policy.route import Route
from gateway.policy.version import policy_version
from gateway.settings.model import Settings


def show_coverage(found: Coverage, spec: Path | None) -> None:
    """Print one line per finding, with the place of routes."""
    for operation in found.without_rule:
        say(printable(f"{spec}: {operation}: no rule serves it"), colour="red")
    for operation in found.own:
        say(printable(f"{spec}: {operation}: the gateway answers this path itself"), colour="red")
    for unread in found.unreadable:
        say(printable(f"{spec}: {unread.path}: cannot be compared: {unread.reason}"), colour="red")
    for route in found.without_operation:
        say(printable(f"{_place(route)}: route '{route.name}' serves no operation of {spec}"), colour="red")


def coverage_document(found: Coverage) -> dict[str, Any]:
    """The findings as JSON values."""
    return {
        "operations_without_rule": _operations(found.without_rule),
        "operations_at_own_paths": _operations(found.own),
        "unreadable_paths": [each._asdict() for each in found.unreadable],
        "rules_without_operation": [
            {"route": each.name, "line": None if each.position is None else each.position.line}
            for each in found.without_operation
        ],
    }


def _operations(operations: Iterable[SpecOperation]) -> list[dict[str, Any]]:
    return [{"method": each.method, "path": each.path, "operation_id": each.name} for each in operations]


def _place(route: Route) -> str:
    position = route.position
    return "-" if position is None else f"{position.file}:{position.line}:{position.column}"


Severity = Literal["error", "warning"]


@click.command("check")
@config_option
@click.option("--strict", is_flag=True, help="Fail on warnings too.")
@click.option(
    "--openapi", metavar="SPEC", type=click.Path(path_type=Path), help="Compare the routes with an OpenAPI document."
)
@json_option
def command(config: Path, strict: bool, openapi: Path | None, as_json: bool) -> int:
    """Find every problem of a configuration file.

    Exit code 2 if the file cannot be used, 1 if it has warnings and --strict is given, else 0. Starts, connects to and
    changes nothing. A comment on a line silences a warning: `# gateway: allow NAME`. With --openapi, also 1 for
    operations without a rule and rules without an operation.
    """
    findings = examined(config, to_serve=True)
    covered = _covered(findings, openapi)
    warnings = (*findings.warnings, *_of_the_whole(findings))
    differs = covered is not None and any(covered)
    code = UNUSABLE if findings.problems else NO if differs or (warnings and strict) else FINE
    if as_json:
        report = _report(config, findings, warnings, fine=code == FINE)
        print_json(report if covered is None else {**report, "openapi": coverage_document(covered)})
    else:
        if covered is not None:
            show_coverage(covered, openapi)
        _show(config, findings, warnings)
    return code


def _covered(findings: Findings, openapi: Path | None) -> Coverage | None:
    if openapi is None or findings.configuration is None:
        return None
    return coverage(findings.configuration.policy, read_spec(openapi))


def _of_the_whole(findings: Findings) -> tuple[Problem, ...]:
    """Warnings about the policy as a whole, which need a valid configuration."""
    if findings.configuration is None:
        return ()
    return (*lint(findings.configuration), *_expiring(findings.configuration.settings))


def _expiring(settings: Settings) -> tuple[Problem, ...]:
    if settings.server.tls is None:
        return ()
    from gateway.server.certificates import expiry_warnings  # Imported here: cryptography takes 60 ms.

    return expiry_warnings(settings)


def _show(config: Path, findings: Findings, warnings: tuple[Problem, ...]) -> None:
    for problem in sorted(findings.problems):
        say(str(problem), colour="red")
    for warning in sorted(warnings):
        say(f"{warning} (warning: {warning.code})", colour="yellow")
    if findings.configuration is None:
        parts = [_count(findings.problems, "problem")]
    else:
        settings = findings.configuration.settings
        parts = ["fine", _count(settings.routes, "route"), _count(settings.upstreams, "upstream")]
        parts.append(f"policy {policy_version(settings)}")
    if warnings:
        parts.append(_count(warnings, "warning"))
    say(f"{config}: {', '.join(parts)}", colour="red" if findings.problems else "green")


def _count(things: Iterable[object], name: str) -> str:
    count = len(tuple(things))
    return f"{count} {name}{'s' if count != 1 else ''}"


def _report(config: Path, findings: Findings, warnings: tuple[Problem, ...], *, fine: bool) -> dict[str, Any]:
    settings = findings.configuration.settings if findings.configuration is not None else None
    return {
        "file": str(config),
        "fine": fine,
        "routes": len(settings.routes) if settings else None,
        "upstreams": len(settings.upstreams) if settings else None,
        "policy": policy_version(settings) if settings else None,
        "problems": [_entry(problem, "error") for problem in sorted(findings.problems)],
        "warnings": [_entry(warning, "warning") for warning in sorted(warnings)],
    }


def _entry(problem: Problem, severity: Severity) -> dict[str, Any]:
    entry = {**problem._asdict(), "severity": severity}
    if severity == "error":
        del entry["code"]  # only warnings have names, for silencing
    return entry
