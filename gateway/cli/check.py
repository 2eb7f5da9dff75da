"""`gateway check`: report all problems and warnings of a configuration."""

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import click

from gateway.analysis.lint import lint
from gateway.analysis.openapi.coverage import Coverage, coverage
from gateway.analysis.openapi.spec import read_spec
from gateway.cli.check_coverage import coverage_document, show_coverage
from gateway.cli.configuration import Findings, examined
from gateway.cli.exit_codes import FINE, NO, UNUSABLE
from gateway.cli.options import config_option, json_option
from gateway.cli.output import print_json, say
from gateway.errors import Problem
from gateway.policy.version import policy_version

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
    return () if findings.configuration is None else lint(findings.configuration)


def _show(config: Path, findings: Findings, warnings: tuple[Problem, ...]) -> None:
    for problem in sorted(findings.problems):
        say(str(problem), colour="red")
    for warning in sorted(warnings):
        say(f"{warning} (warning: {warning.code})", colour="yellow")
    if findings.configuration is None:
        said = [_count(findings.problems, "problem")]
    else:
        settings = findings.configuration.settings
        said = ["fine", _count(settings.routes, "route"), _count(settings.upstreams, "upstream")]
        said.append(f"policy {policy_version(settings)}")
    if warnings:
        said.append(_count(warnings, "warning"))
    say(f"{config}: {', '.join(said)}", colour="red" if findings.problems else "green")


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
    entry = {**asdict(problem), "severity": severity}
    if severity == "error":
        del entry["code"]  # only warnings have names, for silencing
    return entry
