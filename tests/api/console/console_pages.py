"""Every view of the console with made-up traffic, without a gateway."""

from collections.abc import Iterator, Mapping
from math import inf, sin
from pathlib import Path
from typing import Any

import yaml

from gateway.analysis.policy_tests import read_policy_tests
from gateway.api.console import pages
from gateway.api.console.explain_page import explain_view
from gateway.api.console.matrix_page import FileOnDisk, matrix_view
from gateway.api.console.overview import overview
from gateway.api.console.recent_refusals import RecentRefusal
from gateway.api.console.route_list import Readings, RouteQuery, route_list
from gateway.api.console.route_page import PolicyTestFile, find_route, missing_page, route_page
from gateway.observability.metrics.history import TargetTotals, Totals, TrafficReport, TrafficSample
from gateway.observability.metrics.parser import Cumulated, Reading
from gateway.observability.metrics.request_counters import Labels
from gateway.observability.metrics.snapshot import Series
from gateway.policy.loader import Configuration, load_configuration
from gateway.samples import BUCKETS

NOW = 1_790_000_000.0
ROUTES: list[dict[str, Any]] = [
    {"path": "/", "auth": "none", "upstream": "shop", "name": "home"},
    {"path": "/users/{id}/**", "upstream": "shop", "name": "users", "roles": ["editor"], "owner": "id"},
    {"path": "/orders/{id}", "methods": ["GET", "PUT"], "upstream": "orders", "roles": ["editor"], "max_body": "1MiB"},
    {"path": "/orders", "methods": ["GET", "POST"], "upstream": "orders"},
    {"path": "/admin/**", "upstream": "shop", "roles": ["admin"], "fresh": "10m", "name": "administration"},
    {"path": "/audit/**", "upstream": "orders", "roles": {"all": ["auditor", "editor"]}},
    {"path": "/hooks/**", "host": "hooks.example.com", "upstream": "orders", "auth": "none", "strip_prefix": "/hooks"},
    {"path": "/reports/**", "upstream": "orders", "roles": ["auditor"], "shadow": True, "name": "reports-try"},
]
ROLES = {"admin": ["editor"], "editor": ["user"], "auditor": ["user"], "user": []}
TESTS = """
- name: editors change orders
  as: {roles: [editor]}
  allow: [PUT /orders/7]
- name: visitors do not
  as: anonymous
  deny: [PUT /orders/7, "GET /orders/8 -> 403"]
"""


def configured(folder: Path, routes: list[dict[str, Any]] | None = None, **sections: Any) -> Configuration:
    """A configuration in a file of its own."""
    file = folder / f"gateway-{len(list(folder.iterdir()))}.yaml"
    upstreams = {
        "shop": {"targets": ["http://10.0.0.1:8000", "http://10.0.0.2:8000"]},
        "orders": "http://10.0.0.3:8000",
    }
    content = {"upstreams": upstreams, "roles": ROLES, "routes": ROUTES if routes is None else routes, **sections}
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    return load_configuration(file, {})


def report(
    code: str = "rate_limited",
    target: tuple[str, str] = ("shop", "http://10.0.0.1:8000"),
    faults: tuple[str, ...] = (),
) -> TrafficReport:
    """Fifteen minutes of traffic. `faults` are unavailable stores, and upstreams in panic."""
    samples = tuple(_sample(NOW - 10 * ago, code, target) for ago in range(90, 0, -1))
    targets = {
        target: TargetTotals(9000, 0, "up", 3, 0),
        ("shop", "http://10.0.0.2:8000"): TargetTotals(6000, 40, "ejected", 0, 0),
        ("orders", "http://10.0.0.3:8000"): TargetTotals(0, 0, "unused", 0, 0),
    }
    now = Totals(
        at=NOW,
        statuses={},
        codes={},
        durations=[0.0] * BUCKETS,
        lag=[0.0] * BUCKETS,
        targets=targets,
        panics=faults,
        out=faults,
        workers=4,
        connections=128,
        cpu=0.0,
        memory=90 << 20,
        version="0.3.0",
    )
    return TrafficReport(samples, _sample(NOW, code, target), _sample(NOW, code, target), now, 0.42, 0.0021)


def _sample(at: float, code: str, target: tuple[str, str]) -> TrafficSample:
    wave = 1 + sin(at / 60)
    is_bad = NOW - at < 120
    statuses = {"2xx": 400 + 100 * wave, "3xx": 20.0, "4xx": 30 * wave, "5xx": 12.0 if is_bad else 0.0, "1xx": 1.0}
    codes = {"token_missing": 20 * wave, "forbidden": 6.0, code: 2.0}
    names = (("orders", "http://10.0.0.3:8000"), target, ("shop", "http://10.0.0.2:8000"))
    states = ("unused", "up", "ejected" if is_bad else "up")
    percentiles = (0.002 + 0.001 * wave, 0.012 + 0.01 * wave, 0.2 if is_bad else 0.05)
    return TrafficSample(at, 10.0, statuses, codes, *percentiles, names, (0, 60 * wave, 40 * wave), (0, 0, 3), states)


def pictures(configuration: Configuration, changed: Configuration) -> Iterator[tuple[str, str]]:
    """The views in the documentation."""
    orders = "GET,PUT /orders/{id}"
    denied = _refused(orders, "PUT", "/orders/7", user="7f3a02c1")
    missing = _refused("administration", "GET", "/admin/users", code="token_missing")
    refusals = [denied._replace(at=NOW - ago) for ago in (3, 9, 11)]
    refusals.append(denied._replace(at=NOW - 14, path="/orders/12"))
    refusals.append(missing._replace(at=NOW - 21))
    refusals.append(missing._replace(route="", path="/wp-login.php", status=404, code="no_route", reason="no route"))
    readings = Readings(_reading(1), _reading(2), 10.0)
    tests = PolicyTestFile("policy-tests.yaml", read_policy_tests(TESTS.encode(), "policy-tests.yaml", {})[0])
    route = find_route(configuration, orders)
    assert route is not None
    contents = {
        "overview": overview(report(), "b36fe0576131", (), refusals, (orders, missing.route), is_live=False),
        "routes": route_list(configuration.policy, readings, RouteQuery()),
        "route": route_page(configuration, route, readings, refusals[:4], tests),
        "matrix": matrix_view(configuration, 1, "", FileOnDisk("gateway.yaml", changed)),
    }
    for view, content in contents.items():
        yield view, pages.view_page("routes" if view == "route" else view, "admin@example.com", content)


def _refused(route: str, method: str, path: str, *, code: str = "forbidden", user: str = "") -> RecentRefusal:
    status, roles = (403, ("user",)) if user else (401, ())
    reason = "needs one of the roles editor; the caller has the roles user" if user else "the route requires a user"
    return RecentRefusal(NOW - 40, route, method, path, status, code, reason, user, roles, "203.0.113.7", "0123456789")


def _reading(factor: int) -> Reading:
    rates = {("home", "2xx", ""): 410, ("users", "2xx", ""): 96, ("users", "4xx", "forbidden"): 3}
    rates |= {("GET,PUT /orders/{id}", "2xx", ""): 71, ("GET,PUT /orders/{id}", "4xx", "forbidden"): 4}
    requests = {Labels(route, "GET", status, code): factor * n for (route, status, code), n in rates.items()}
    counts = {"home": 410, "users": 99, "GET,PUT /orders/{id}": 75}
    families = ("gateway_request_duration_seconds", "gateway_upstream_duration_seconds")
    durations: dict[Series, Cumulated] = {
        (family, (route,)): {0.001: factor * n * 0.4, 0.005: factor * n * 0.9, 0.05: factor * n, inf: factor * n}
        for family in families
        for route, n in counts.items()
    }
    return Reading(requests, {}, lambda names: durations)


def refusal(text: str) -> RecentRefusal:
    return RecentRefusal(NOW - 3, text, text, text, 403, text, text, text, (text,), text, text)


def views(configuration: Configuration, changed: Configuration, text: str) -> Iterator[tuple[str, str]]:
    """Every view, with a text in each value that requests, upstreams or files can provide."""
    for name, content in _contents(configuration, changed, text):
        yield name, pages.view_page("overview", text, content, text)
    yield "sign-in", pages.sign_in_page(text)


def _contents(configuration: Configuration, changed: Configuration, text: str) -> Iterator[tuple[str, str]]:
    refusals = (refusal(text), refusal("other"))
    readings = Readings(None, None, 1.0)
    names = ("q", "upstream", "sort", "access", "kind", "roles", "id", "method")
    query: Mapping[str, str] = dict.fromkeys(names, text)
    yield "overview", overview(report(text, (f"web{text}", text), (text,)), text, (), refusals, (text,), is_live=False)
    yield "routes", route_list(configuration.policy, readings, RouteQuery())
    yield "no routes", route_list(configuration.policy, readings, RouteQuery.of(query))
    tests = PolicyTestFile(text, read_policy_tests(TESTS.encode(), text, {})[0])
    orders, users = (find_route(configuration, name) for name in ("GET,PUT /orders/{id}", "users"))
    assert orders is not None and users is not None
    yield "tested route", route_page(configuration, orders, readings, refusals, tests)
    yield "untested route", route_page(configuration, users, readings, refusals, tests)
    yield "broken tests", route_page(configuration, users, readings, (), PolicyTestFile(text, problem=text))
    yield "missing route", missing_page(text)
    yield "matrix", matrix_view(configuration, 1, "", None)
    yield "compared", matrix_view(configuration, 1, "", FileOnDisk(text, changed))
    yield "faulty file", matrix_view(configuration, 1, text, FileOnDisk(text, None, text))
    yield "no request", explain_view(configuration, {**query, "url": f"x{text}"})
    yield "explained", explain_view(configuration, {**query, "url": "/users/1/x", "method": "GET"})
