"""The files in deploy/ use only existing metrics and labels."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.errors import CODES
from gateway.observability.metrics.families import FAMILIES
from tests.observability.promql import Query, Selector, parse, tokens

DEPLOY = Path(__file__).parents[2] / "deploy"
DASHBOARD = json.loads((DEPLOY / "grafana/gateway.json").read_text(encoding="utf-8"))
ALERTS = yaml.safe_load((DEPLOY / "prometheus/alerts.yml").read_text(encoding="utf-8"))
SCRAPING = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text(encoding="utf-8"))
RULES: list[dict[str, Any]] = [rule for group in ALERTS["groups"] for rule in group["rules"]]
# Metrics of Prometheus itself.
ITS_METRICS = {"up"}
ITS_LABELS = {"job", "instance"}
VALUES = {
    "status": {"1xx", "2xx", "3xx", "4xx", "5xx", "499"},
    "state": {"busy", "idle"},
    "result": {"hit", "miss"},
    "level": {"token", "local", "redis", "database"},
    "store": {"database", "redis"},
    "outcome": {"success", *CODES},
    "code": {"", *CODES},
}


def panels() -> Iterator[tuple[str, str, str]]:
    """Title, query and legend of each line of each panel."""
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"], target["legendFormat"]


QUERIES = [
    *((f"panel {title}", query) for title, query, _ in panels()),
    *((f"alert {rule['alert']}", rule["expr"]) for rule in RULES),
]


def labels_of(selector: Selector) -> set[str]:
    """The labels of a metric. Raises AssertionError for an unknown metric."""
    if selector.metric in ITS_METRICS:
        return ITS_LABELS
    name, _, suffix = selector.metric.rpartition("_")
    histogram = FAMILIES.get(name) if suffix in ("bucket", "sum", "count") else None
    family = histogram or FAMILIES.get(selector.metric)
    assert family is not None, f"there is no metric {selector.metric}"
    assert (family.kind == "histogram") == (histogram is not None), f"{selector.metric}: {name} is a {family.kind}"
    assert (family.kind == "gauge") != selector.is_range, f"{selector.metric}: rates are for what only grows"
    return {*family.labels, *ITS_LABELS, *(("le",) if suffix == "bucket" else ())}


def check(text: str) -> Query:
    query = parse(text)
    assert query.selectors, "it asks for nothing"
    known: set[str] = set()
    for selector in query.selectors:
        labels = labels_of(selector)
        known |= labels
        for label, (operator, value) in selector.matchers.items():
            assert label in labels, f"{selector.metric} has no label {label}"
            if label in VALUES:
                values = value.split("|") if "~" in operator else [value]
                assert set(values) <= VALUES[label], f"{label} is never {value}"
    assert query.grouped <= known, f"grouped by what nothing has: {query.grouped - known}"
    if "histogram_quantile" in text:
        assert "le" in query.grouped, "quantiles need the buckets"
    return query


@pytest.mark.parametrize(("where", "query"), QUERIES, ids=[where for where, _ in QUERIES])
def test_every_query_asks_for_metrics_that_exist(where: str, query: str) -> None:
    check(query)


@pytest.mark.parametrize(("title", "query", "legend"), list(panels()))
def test_every_legend_names_labels_that_the_result_has(title: str, query: str, legend: str) -> None:
    named = set(re.findall(r"\{\{(\w+)\}\}", legend))
    assert named <= parse(query).grouped, title


@pytest.mark.parametrize("rule", RULES, ids=[rule["alert"] for rule in RULES])
def test_every_alert_describes_its_cause(rule: dict[str, Any]) -> None:
    assert rule["annotations"]["summary"]
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert re.fullmatch(r"Gateway[A-Z]\w+", rule["alert"])
    named = {label for text in rule["annotations"].values() for label in re.findall(r"\$labels\.(\w+)", text)}
    assert named <= parse(rule["expr"]).grouped | ({"instance"} if rule["alert"] == "GatewayDown" else set())


def test_every_metric_of_the_gateway_is_shown_somewhere() -> None:
    """Except metrics about the operator's own actions."""
    asked = {selector.metric for _, query in QUERIES for selector in parse(query).selectors}
    shown = {name for name in FAMILIES if any(metric.startswith(name) for metric in asked)}
    assert FAMILIES.keys() - shown <= {"process_start_time_seconds", "gateway_policy_info"}


def test_the_dashboard_is_whole() -> None:
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    cells = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        for cell in (
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        ):
            assert cell not in cells, f"{panel['title']} covers another panel"
            cells.add(cell)
        if panel["type"] != "row":
            assert panel["description"]
    (instances,) = [one for one in DASHBOARD["templating"]["list"] if one["name"] == "instance"]
    metric = re.fullmatch(r"label_values\((\w+), instance\)", instances["query"])
    assert metric is not None
    assert metric[1] in FAMILIES


def test_prometheus_has_the_address_of_the_metrics() -> None:
    (job,) = SCRAPING["scrape_configs"]
    assert job["metrics_path"] == "/_gateway/metrics"
    assert all((DEPLOY / "prometheus" / name).exists() for name in SCRAPING["rule_files"])


# ---- the checks find errors


@pytest.mark.parametrize(
    "query",
    [
        "gateway_request_total",
        "rate(gateway_requests_total{stauts='5xx'}[5m])",
        'rate(gateway_requests_total{statuss="5xx"}[5m])',
        'rate(gateway_requests_total{status="500"}[5m])',
        'rate(gateway_requests_total{code="forbiden"}[5m])',
        "gateway_requests_total",
        "rate(gateway_connections[5m])",
        "rate(gateway_connections_bucket[5m])",
        "rate(gateway_request_duration_seconds[5m])",
        "sum by (user) (rate(gateway_requests_total[5m]))",
        "histogram_quantile(0.9, sum by (route) (rate(gateway_request_duration_seconds_bucket[5m])))",
        "summ(rate(gateway_requests_total[5m]))",
        "sum(rate(gateway_requests_total[5m])",
        "sum(rate(gateway_requests_total[5m])))",
        "1 + 1",
        "rate(gateway_requests_total[5m]) ?",
    ],
)
def test_a_query_that_is_wrong_does_not_pass(query: str) -> None:
    with pytest.raises((AssertionError, ValueError, IndexError)):
        check(query)


def test_the_tokenizer_separates_words() -> None:
    assert tokens('a{b=~"c|\\"d"}[5m] >= 1.5') == [
        ("name", "a"),
        ("operator", "{"),
        ("name", "b"),
        ("operator", "=~"),
        ("string", '"c|\\"d"'),
        ("operator", "}"),
        ("operator", "["),
        ("duration", "5m"),
        ("operator", "]"),
        ("operator", ">="),
        ("number", "1.5"),
    ]
