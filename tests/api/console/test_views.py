"""The contents of the console's views: filters, sorting, changes, drafts of tests, and escaping."""

import re
from html import unescape
from pathlib import Path
from urllib.parse import parse_qs, urlsplit
from xml.etree import ElementTree

import pytest

from gateway.analysis.policy_tests import read_policy_tests
from gateway.analysis.test_runner import run_policy_tests
from gateway.api.console.charts import Line, Point, logarithmic, stacked, strip
from gateway.api.console.matrix_page import FileOnDisk, matrix_view
from gateway.api.console.overview import overview
from gateway.api.console.route_list import Readings, RouteQuery, route_list
from gateway.api.console.route_page import draft_of, policy_test_file
from gateway.observability.metrics.parser import Reading
from gateway.observability.metrics.request_counters import Labels
from gateway.policy.loader import Configuration
from gateway.policy.roles import RoleHierarchy
from tests.api.console.console_pages import ROUTES, configured, refusal, report, views
from tests.api.pages.test_injection import Structure
from tests.support.xss import PAYLOADS


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("console")


@pytest.fixture(scope="module")
def configuration(folder: Path) -> Configuration:
    return configured(folder)


@pytest.fixture(scope="module")
def changed(folder: Path) -> Configuration:
    """The orders open for users, no audit, and files."""
    routes = [route for route in ROUTES if route["path"] != "/audit/**"]
    routes = [{**route, "roles": ["user"]} if route["path"] == "/orders/{id}" else route for route in routes]
    return configured(folder, [*routes, {"path": "/files/**", "upstream": "shop", "roles": ["user"]}])


def reading(factor: int) -> Reading:
    """A number of requests to some routes: most to the orders, most refused of the users, most failed at home."""
    counts = {("GET,POST /orders", "2xx", ""): 9, ("users", "4xx", "forbidden"): 5, ("home", "5xx", ""): 3}
    requests = {Labels(route, "GET", status, code): factor * n for (route, status, code), n in counts.items()}
    return Reading(requests, {}, lambda names: {})


def listed(configuration: Configuration, **query: str) -> list[str]:
    """The names of the routes in the table, in its order."""
    page = route_list(configuration.policy, Readings(reading(1), reading(2), 1.0), RouteQuery.of(query))
    links = re.findall(r'href="([^"]*amp;name=[^"]*)"', page.partition("<tbody>")[2])
    return [parse_qs(urlsplit(unescape(link)).query)["name"][0] for link in links]


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ({"q": "ORDERS/"}, ["GET,PUT /orders/{id}"]),
        ({"q": "auditor"}, ["/audit/**"]),
        ({"access": "everyone"}, ["home", "hooks.example.com/hooks/**"]),
        ({"access": "owner"}, []),
        ({"access": "signed-in"}, ["GET,POST /orders"]),
        ({"upstream": "shop", "access": "roles"}, ["users", "administration"]),
        ({"kind": "shadow"}, ["reports-try"]),
        ({"q": "x" * 5000}, []),
        ({"sort": "requests"}, ["GET,POST /orders", "users", "home"]),
        ({"sort": "refused"}, ["users", "home"]),
        ({"sort": "errors"}, ["home", "users"]),
        ({"sort": "path", "q": "/orders"}, ["GET,POST /orders", "GET,PUT /orders/{id}"]),
        ({"sort": "nonsense", "access": "<b>", "kind": "'"}, ["home", "users", "GET,PUT /orders/{id}"]),
    ],
)
def test_the_table_of_routes_filters_and_sorts(
    configuration: Configuration, query: dict[str, str], names: list[str]
) -> None:
    found = listed(configuration, **query)
    assert found[: len(names)] == names
    if "sort" not in query:
        assert found == names


def test_routes_of_the_gateway_itself_are_listed_on_request(configuration: Configuration) -> None:
    assert "operations.metrics" in listed(configuration, kind="own")
    assert "operations.metrics" not in listed(configuration)


def test_links_keep_the_filters(configuration: Configuration) -> None:
    page = route_list(configuration.policy, Readings(None, None, 0.0), RouteQuery.of({"q": "/**", "access": "roles"}))
    assert "q=%2F%2A%2A&amp;access=roles&amp;sort=path" in page


def test_the_comparison_marks_cells_routes_and_regions(configuration: Configuration, changed: Configuration) -> None:
    page = matrix_view(configuration, 1, "", FileOnDisk("gateway.yaml", changed))
    assert page.count('<td class="m-yes changed"><s>– no</s><br>✓ yes</td>') == 2, "auditors and users"
    assert "+ added" in page and "− removed" in page
    rows = page.partition("A reload of gateway.yaml would change")[2].partition("</section>")[0]
    assert len(re.findall(">opens</span>", rows)) == 2
    assert len(re.findall(">closes</span>", rows)) == 1
    assert "role auditor; role user" in rows


def test_the_comparison_with_the_same_file_shows_no_change(configuration: Configuration) -> None:
    page = matrix_view(configuration, 1, "", FileOnDisk("gateway.yaml", configuration))
    assert "Nothing about access, routes or upstreams" in page
    assert " changed" not in page.partition("<tbody>")[2].partition("</tbody>")[0]


def test_drafts_of_policy_tests_hold_for_every_route(configuration: Configuration) -> None:
    for route in configuration.policy.routes:
        if not route.shadow:
            tests, problems = read_policy_tests(draft_of(configuration, route).encode(), "draft", {})
            assert problems == ()
            report = run_policy_tests(configuration.policy, RoleHierarchy(configuration.settings.roles), tests)
            assert report.failures == []
            assert {result.verdict.route for result in report.results if result.verdict.is_allowed} <= {route}


def test_policy_tests_are_found_beside_the_configuration(tmp_path: Path) -> None:
    configuration = configured(tmp_path)
    assert policy_test_file(configuration).file == ""
    file = tmp_path / "policy-tests.yaml"
    file.write_text("- {name: home, as: anonymous, allow: [GET /]}")
    assert [test.name for test in policy_test_file(configuration).tests] == ["home"]
    file.write_text("- {name: home}")
    assert "problem" in policy_test_file(configuration).problem
    file.write_bytes(b"#" * (1 << 19))
    assert "more than 256 KiB" in policy_test_file(configuration).problem


def test_the_overview_is_well_formed_and_small(configuration: Configuration) -> None:
    page = overview(report(), "0123456789ab", {"orders"}, (), (), is_live=False)
    drawings = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(drawings) > 5
    for drawing in drawings:
        ElementTree.fromstring(drawing)  # made here
    assert len(page) < 40_000
    assert "✓ up, no requests yet" in page, "a target whose health is checked has been contacted"
    assert "Sum of 4 worker processes" in page


# ---- charts


def line(*values: float | None, name: str = "x") -> Line:
    points = [Point(100.0 + 10 * n, 110.0 + 10 * n, value) for n, value in enumerate(values)]
    return Line(name, "f1", points, "1", "2")


def paths(chart: str) -> list[str]:
    return re.findall(r'<path class="(?:f|line)[^"]*" d="([^"]*)"', chart.partition("<table")[0])


def test_a_refusal_links_to_its_route_only_if_the_route_exists() -> None:
    refusals = (refusal("orders"), refusal("removed"))
    page = overview(report(), "0123456789ab", (), refusals, ("orders",), is_live=False)
    routes = re.findall(r'<td data-name="Route"><div>(.*?)</div>', page)
    assert routes == ['<a href="/_gateway/console?view=route&amp;name=orders">orders</a>', "removed"]


def test_areas_are_stacked_from_the_first_line_up() -> None:
    above, below = paths(stacked("Requests", "/s", [line(1.0, 2.0), line(3.0, 2.0)], 1000.0))
    assert below == "M0 100V75.0H10V50.0H20V100Z"
    assert above == "M0 100V0.0H10V0.0H20V100Z"


@pytest.mark.parametrize(("value", "top"), [(0.0, "1"), (0.03, "0.04"), (7.0, "10"), (10.0, "10"), (1500.0, "2,000")])
def test_the_scale_ends_at_a_round_number(value: float, top: str) -> None:
    assert f"<span>{top}/s</span>" in stacked("Requests", "/s", [line(value)], 1000.0)


def test_latencies_have_a_logarithmic_scale_with_gaps() -> None:
    chart = logarithmic("Latency", [line(0.01, None, 0.1, 0.1)], 1000.0)
    assert paths(chart) == ["M0 100.0L10 100.0M20 0.0L30 0.0L30 0.0L40 0.0"]
    assert "<span>100 ms</span><span>10 ms</span>" in chart


def test_a_chart_without_values_says_so() -> None:
    assert "No requests" in logarithmic("Latency", [line(None)], 1000.0)
    assert "None in the last" in stacked("Refusals", "/s", [], 1000.0)


def test_a_fault_differs_by_its_height_too() -> None:
    drawing = strip([Point(100, 500, None), Point(500, 1000, None)], ["up", "fault"], "x", 1000.0)
    assert 'class="up" d="M0 20V8H400V20Z"' in drawing
    assert 'class="fault" d="M400 20V0H900V20Z"' in drawing


# ---- escaping


def test_no_payload_adds_an_element_or_an_attribute(configuration: Configuration, changed: Configuration) -> None:
    expected = {name: Structure(html).found for name, html in views(configuration, changed, "plain")}
    for payload in PAYLOADS[::5]:
        for name, html in views(configuration, changed, payload):
            assert Structure(html).found == expected[name], (name, payload)
