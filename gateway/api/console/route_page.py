"""The page of one route: its rule, its traffic, its recent refusals and its policy tests."""

import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import fields
from html import escape
from pathlib import Path
from shlex import quote
from typing import Final, NamedTuple

from gateway.analysis.describe import callers_in_words, label_of, wording_of
from gateway.analysis.explain import SIGNED_IN, Person, explain
from gateway.analysis.matrix import Cell, cell_words, matrix, named_roles, roles_of
from gateway.analysis.policy_tests import PolicyTest, read_policy_tests
from gateway.analysis.simulate import parse_request_line
from gateway.analysis.test_runner import Result, run_policy_tests
from gateway.api.console import pages
from gateway.api.console.overview import refusal_table
from gateway.api.console.pages import Column
from gateway.api.console.recent_refusals import PER_ROUTE, RecentRefusal
from gateway.api.console.route_list import Readings
from gateway.observability.metrics.summary import route_rates, route_rows
from gateway.policy.loader import Configuration
from gateway.policy.roles import RoleHierarchy
from gateway.policy.route import Route
from gateway.settings.model import RouteSettings

POLICY_TESTS: Final = "policy-tests.yaml"  # beside the configuration, where `gateway init` writes it
_MOST_BYTES: Final = 1 << 18
_MOST_ROLES: Final = 50
_MOST_RESULTS: Final = 100
_MOST_DRAFTED: Final = 3  # roles
_SETTINGS: Final = (
    *("credentials", "fresh", "verified", "same_origin", "sign_in", "websocket", "max_body", "response_timeout"),
    *("rate_limit", "cors", "forward_credentials", "encoded_slash"),
)


class PolicyTestFile(NamedTuple):
    """The policy tests beside the configuration. `file` is empty without a known file; `problem` tells why the file
    cannot be used."""

    file: str
    tests: tuple[PolicyTest, ...] = ()
    problem: str = ""


def find_route(configuration: Configuration, name: str) -> Route | None:
    """Return the route of this name, of the file or of the gateway itself."""
    policy = configuration.policy
    return next((route for route in (*policy.routes, *policy.own) if route.name == name), None)


def route_names(configuration: Configuration, among: Collection[str]) -> set[str]:
    """Return those of the names that are names of routes."""
    policy = configuration.policy
    return {route.name for route in (*policy.routes, *policy.own) if route.name in among}


def policy_test_file(configuration: Configuration) -> PolicyTestFile:
    """Read the policy tests beside the configuration, if they are there. Blocks; run it in a thread."""
    file = Path(configuration.settings.places.file).with_name(POLICY_TESTS)
    try:
        with file.open("rb") as opened:
            content = opened.read(_MOST_BYTES + 1)
    except OSError:
        return PolicyTestFile("")
    if len(content) > _MOST_BYTES:
        return PolicyTestFile(str(file), problem=f"it has more than {_MOST_BYTES >> 10} KiB")
    tests, problems = read_policy_tests(content, str(file), {})
    return PolicyTestFile(str(file), tests, f"it has {len(problems)} problems" if problems else "")


def route_page(
    configuration: Configuration,
    route: Route,
    readings: Readings,
    refusals: Sequence[RecentRefusal],
    tests: PolicyTestFile,
) -> str:
    """Build the page of a route."""
    explain = pages.link("explain", url=_example(route), method=_method(route))
    aside = f'<a href="{pages.link("routes")}">All routes</a> · <a href="{explain}">Explain a request</a>'
    return (
        pages.heading(label_of(route), aside)
        + _traffic(route, readings)
        + f'<div class="columns">{pages.card("Rule", _rule(configuration, route))}'
        + f"{pages.card('Access', _access(configuration, route))}</div>"
        + pages.card("Recent refusals", refusal_table(refusals, PER_ROUTE))
        + pages.card("Policy tests", _tests(configuration, route, tests))
    )


def missing_page(name: str) -> str:
    """Build the page for a name that no route has."""
    link = f'<p><a href="{pages.link("routes")}">All routes</a></p>'
    return pages.heading("No such route") + f"<p>No route of the policy in force is called {escape(name)}.</p>{link}"


def _traffic(route: Route, readings: Readings) -> str:
    if readings.before is None or readings.after is None:
        return ""
    rates = route_rates(readings.before, readings.after, readings.seconds)
    (row,) = route_rows(readings.before, readings.after, [route.name], rates)
    (whole,) = route_rows(
        readings.after._replace(requests={}, histograms=lambda _: {}), readings.after, [route.name], {}
    )
    total = sum(number for labels, number in readings.after.requests.items() if labels.route == route.name)
    return pages.tiles(
        {
            "Requests": f"{pages.rate(row.requests)}/s<small>{pages.count(total)} since the start</small>",
            "Refused": f"{pages.rate(row.refused)}/s<small>in the last {readings.seconds:.0f} s</small>",
            "Errors (5xx)": f"{pages.rate(row.errors)}/s<small>in the last {readings.seconds:.0f} s</small>",
            "Latency p99": f"{pages.duration(whole.slowest)}<small>median {pages.duration(whole.median)}</small>",
            "Upstream p99": f"{pages.duration(whole.upstream)}<small>since the start</small>",
        }
    )


# ---- the rule


def _rule(configuration: Configuration, route: Route) -> str:
    rows = {
        "Name": escape(route.name),
        "Path": f"<code>{escape(route.pattern)}</code>",
        "Methods": escape(_methods(route)),
        "Host": "any" if route.host is None else f"<code>{escape(route.host.decode())}</code>",
        "Who passes": escape(callers_in_words(route)),
        "Upstream": _upstream(configuration, route),
    }
    if route.condition:
        rows["Condition"] = escape(route.condition)
    if route.shadow:
        rows["Shadow"] = pages.tag("a shadow rule, which decides nothing", "warn")
    if route.position is not None:
        rows["Written at"] = f"<code>{escape(route.position.file)}</code>, line {route.position.line}"
    rows.update((name, escape(value)) for name, value in _settings(route))
    return pages.facts(rows)


def _methods(route: Route) -> str:
    if route.methods is None:
        return "all but TRACE"
    return ", ".join(sorted(method.decode() for method in route.methods))


def _upstream(configuration: Configuration, route: Route) -> str:
    if route.upstream is None:
        return "the gateway itself"
    targets = "".join(
        f"<br><code>{escape(url)}</code>" for url in configuration.settings.upstreams[route.upstream].targets
    )
    return f"{escape(route.upstream)}{targets}"


def _settings(route: Route) -> Iterable[tuple[str, str]]:
    """The settings that differ from their defaults, as the file writes them."""
    settings = route.settings
    if settings is None:
        return
    defaults = {each.name: each.default for each in fields(RouteSettings)}
    for name in _SETTINGS:
        if getattr(settings, name) != defaults[name]:
            yield name, wording_of(name, route)
    if settings.rewrite is not None or settings.strip_prefix is not None:
        yield "forwarded path", wording_of("rewrite", route)


def _access(configuration: Configuration, route: Route) -> str:
    roles = roles_of(configuration.settings, [route])
    shown = roles if len(roles) <= _MOST_ROLES else named_roles([route])[:_MOST_ROLES]
    (row,) = matrix([route], shown, RoleHierarchy(configuration.settings.roles)).rows
    cells = [("anonymous", row.anonymous), ("signed in", row.signed_in), *zip(shown, row.roles, strict=True)]
    lines = [[escape(name), pages.tag(cell_words(cell), _kind(cell))] for name, cell in cells]
    return pages.table((Column("Caller"), Column("Access")), lines, "Access by caller")


def _kind(cell: Cell) -> str:
    return {"yes": "good", "no": ""}.get(cell.access, "warn")


# ---- policy tests


def _tests(configuration: Configuration, route: Route, found: PolicyTestFile) -> str:
    if found.problem:
        return f"<p>{escape(found.file)} cannot be used: {escape(found.problem)}.</p>"
    results = _results(configuration, route, found)
    if not results:
        return _how_to_test(configuration, route, found)
    failed = sum(result.failure is not None for result in results)
    summary = (
        pages.tag(f"✕ {failed} of {len(results)} failed", "bad")
        if failed
        else pages.tag(f"✓ {len(results)} passed", "good")
    )
    rows = [
        [
            escape(result.test.name),
            f"<code>{escape(result.expectation.text)}</code>",
            "allowed" if result.expectation.allowed else "refused",
            pages.tag("✓ passed", "good") if result.failure is None else pages.tag("✕ failed", "bad"),
            escape(result.failure.reason if result.failure is not None else ""),
        ]
        for result in results[:_MOST_RESULTS]
    ]
    columns = (Column("Test"), Column("Request"), Column("Must be"), Column("Result"), Column("Reason"))
    return f"<p>{summary} in <code>{escape(found.file)}</code></p>{pages.table(columns, rows, 'Policy tests')}"


def _results(configuration: Configuration, route: Route, found: PolicyTestFile) -> list[Result]:
    """The results of the expectations about this route, against the policy in force."""
    report = run_policy_tests(
        configuration.policy, RoleHierarchy(configuration.settings.roles), found.tests, configuration.shadows
    )
    return [each for each in report.results if each.verdict.route is route or each.expectation.route == route.name]


def _how_to_test(configuration: Configuration, route: Route, found: PolicyTestFile) -> str:
    where = found.file or str(Path(configuration.settings.places.file).with_name(POLICY_TESTS))
    known = f"No test in {found.file} concerns this route." if found.file else f"There is no file {where}."
    command = f"gateway test {quote(where)} --config {quote(configuration.settings.places.file)}"
    return (
        f"<p>{escape(known)} Tests of this route can begin like this:</p>"
        f"<pre tabindex=0><code>{escape(draft_of(configuration, route))}</code></pre>"
        f"<p>Run them with <code>{escape(command)}</code></p>"
    )


def draft_of(configuration: Configuration, route: Route) -> str:
    """Policy tests that hold now: one request by each kind of caller."""
    host = "" if route.host is None else "http://" + route.host.decode().replace("*", "www")
    line = f"{_method(route)} {host}{_example(route)}"
    request = parse_request_line(_method(route), f"{host}{_example(route)}")
    callers: list[tuple[str, str, Person | None]] = [("anonymous callers", "anonymous", None)]
    callers.append(("signed-in users", "{roles: []}", SIGNED_IN))
    for role in roles_of(configuration.settings, [route])[:_MOST_DRAFTED]:
        callers.append(
            (f"users with the role {role}", f"{{roles: [{json.dumps(role)}]}}", Person("", frozenset((role,))))
        )
    hierarchy = RoleHierarchy(configuration.settings.roles)
    lines = []
    for name, who, person in callers:
        verdict = explain(configuration.policy, hierarchy, request, person).verdict
        verb = "allow" if verdict.is_allowed else "deny"
        name = json.dumps(f"{name}: {label_of(route)}", ensure_ascii=False)
        lines.append(f"- name: {name}\n  as: {who}\n  {verb}: [{json.dumps(line)}]")
    return "\n".join(lines)


def _method(route: Route) -> str:
    methods = sorted(method.decode() for method in route.methods or (b"GET",))
    return "GET" if "GET" in methods else methods[0]


def _example(route: Route) -> str:
    """A path that the pattern matches."""
    parts = ["x" if part.startswith("{") or part == "**" else part for part in route.pattern.split("/")]
    return "/".join(parts)
