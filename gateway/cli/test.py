"""`gateway test`: run unit tests of the policy."""

import os
from pathlib import Path

import click

from gateway.analysis.policy_tests import PolicyTest, read_policy_tests
from gateway.analysis.test_runner import PolicyTestReport, run_policy_tests, unknown_names
from gateway.cli.configuration import config_option, json_option, loaded_policy
from gateway.cli.output import complain, print_json, say
from gateway.cli.program import FINE, NO, UNUSABLE
from gateway.cli.test_report import as_document, as_lines, junit_xml
from gateway.errors import CannotStart, Problem, cannot_read
from gateway.policy.roles import RoleHierarchy
from gateway.settings.model import Settings


@click.command("test")
@click.argument("tests", nargs=-1, required=True, type=click.Path(path_type=Path))
@config_option
@click.option("--junit", metavar="FILE", type=click.Path(path_type=Path), help="Also write a JUnit report, for CI.")
@click.option(
    "--min-coverage",
    metavar="PERCENT",
    type=click.FloatRange(0, 100),
    default=0,
    show_default=True,
    help="Fail if tests cover fewer of the routes.",
)
@json_option
def command(tests: tuple[Path, ...], config: Path, junit: Path | None, min_coverage: float, as_json: bool) -> int:
    """Test which requests the policy allows and refuses.

    TESTS are files, or folders with .yaml and .yml files. Exit code 0: all as expected, 1: not as expected, or too
    little coverage, 2: a file that cannot be read.
    """
    configuration = loaded_policy(config)
    found, problems = _read_all(tests)
    problems = sorted([*problems, *unknown_names(configuration.settings, configuration.policy, found)])
    if problems:
        return _unusable(problems)
    report = run_policy_tests(
        configuration.policy, RoleHierarchy(configuration.settings.roles), found, configuration.shadows
    )
    fine = not report.failures and report.coverage >= min_coverage
    if junit is not None:
        _write_junit(junit, report, configuration.settings)
    if as_json:
        print_json(as_document(report, configuration.settings, fine=fine))
    else:
        for line in as_lines(report, configuration.settings, min_coverage):
            say(line)
    return FINE if fine else NO


def _read_all(paths: tuple[Path, ...]) -> tuple[list[PolicyTest], list[Problem]]:
    found: list[PolicyTest] = []
    problems: list[Problem] = []
    for file in dict.fromkeys(file for path in paths for file in _files(path)):
        try:
            content = file.read_bytes()
        except OSError as error:
            raise CannotStart(f"cannot read the tests {cannot_read(file, error)}") from None
        tests, wrong = read_policy_tests(content, str(file), os.environ)
        found += tests
        problems += wrong
    return found, problems


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    files = sorted(file for file in path.rglob("*") if file.suffix in (".yaml", ".yml") and file.is_file())
    if not files:
        raise CannotStart(f"no .yaml file in the folder {path}")
    return files


def _unusable(problems: list[Problem]) -> int:
    for problem in problems:
        say(str(problem), err=True)
    complain(f"the tests have {len(problems)} problem{'s' if len(problems) != 1 else ''}; nothing was tested")
    return UNUSABLE


def _write_junit(file: Path, report: PolicyTestReport, settings: Settings) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(junit_xml(report, settings))
    except OSError as error:
        raise CannotStart(f"cannot write the report {cannot_read(file, error)}") from None
