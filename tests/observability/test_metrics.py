"""The metrics as read by Prometheus."""

import asyncio
import math
import re
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

import gateway
from gateway.errors import CODES
from gateway.observability.metrics.exposition import page_of
from gateway.observability.metrics.families import FAMILIES
from gateway.observability.metrics.metrics import Metrics, own_samples, resident_memory
from gateway.observability.metrics.snapshot import state_of
from gateway.observability.observer import Observer
from gateway.samples import BOUNDS
from gateway.settings.model import ObservabilitySettings
from tests.observability.requests import Collected, complete, observing

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def page_for(observer: Observer) -> str:
    """The page of a single worker, without the event loop of the gateway."""
    return page_of(state_of(observer.snapshot(), own_samples(observer))).decode()


def scrape(observer: Observer) -> Samples:
    """All samples of the page."""
    return samples_of(page_for(observer))


def samples_of(page: str) -> Samples:
    """Repeated samples of a series are an error, as in Prometheus."""
    samples: Samples = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            series = (sample.name, frozenset(sample.labels.items()))
            assert series not in samples, series
            samples[series] = sample.value
    return samples


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples[name, frozenset(labels.items())]


def requests(samples: Samples, route: str, method: str, status: str, code: str = "") -> float:
    return value(samples, "gateway_requests_total", route=route, method=method, status=status, code=code)


def seen(samples: Samples, name: str, label: str) -> set[str]:
    return {dict(labels)[label] for sample, labels in samples if sample == name}


@pytest.fixture(params=["json", "text", "off"])
def observer(request: pytest.FixtureRequest) -> Observer:
    return Collected(routes=("orders", "users"), access_log=request.param).observer


def test_requests_are_counted_by_route_method_status_and_code(observer: Observer) -> None:
    for differing in (
        {},
        {"user_id": "another", "path": b"/orders/8", "seconds": 3.0},
        {"method": b"POST"},
        {"status": 404, "code": "no_route", "route": ""},
        {"status": 401, "code": "token_missing", "route": "users"},
    ):
        complete(observer, **differing)
    samples = scrape(observer)
    assert requests(samples, "orders", "GET", "2xx") == 2
    assert requests(samples, "orders", "POST", "2xx") == 1
    assert requests(samples, "", "GET", "4xx", "no_route") == 1
    assert requests(samples, "users", "GET", "4xx", "token_missing") == 1
    assert sum(count for (name, _), count in samples.items() if name == "gateway_requests_total") == 5


def test_a_disconnected_client_counts_as_499_for_every_way_of_disconnecting(observer: Observer) -> None:
    complete(observer, status=0)
    complete(observer, status=499)
    assert requests(scrape(observer), "orders", "GET", "499") == 2


@pytest.mark.parametrize(
    ("seconds", "le"),
    [
        (0.0, "0.0001"),
        (0.001, "0.001"),
        (0.0010001, "0.0025"),
        (0.3, "0.5"),
        (10.0, "10.0"),
        (10.1, "+Inf"),
        (3600.0, "+Inf"),
    ],
)
def test_a_duration_falls_into_the_first_bucket_that_holds_it(seconds: float, le: str) -> None:
    log = Collected()
    complete(log.observer, seconds=seconds)
    samples = scrape(log.observer)
    for bound in (*map(str, BOUNDS), "+Inf"):
        count = value(samples, "gateway_request_duration_seconds_bucket", route="orders", le=bound)
        assert count == (1 if float(bound.replace("+Inf", "inf")) >= float(le.replace("+Inf", "inf")) else 0), bound


@given(
    st.lists(st.tuples(st.sampled_from(["orders", "users", ""]), st.sampled_from([200, 404, 502]), st.floats(0, 100)))
)
def test_the_histogram_of_a_route_holds_all_its_requests(served: list[tuple[str, int, float]]) -> None:
    log = Collected(routes=("orders", "users"), access_log="off")
    for route, status, seconds in served:
        complete(log.observer, route=route, status=status, seconds=seconds)
    samples = scrape(log.observer)
    for route in {route for route, _, _ in served}:
        durations = [seconds for name, _, seconds in served if name == route]
        name = "gateway_request_duration_seconds"
        assert value(samples, f"{name}_count", route=route) == len(durations)
        assert value(samples, f"{name}_sum", route=route) == pytest.approx(math.fsum(durations))
        for bound in BOUNDS:
            within = sum(seconds <= bound for seconds in durations)
            assert value(samples, f"{name}_bucket", route=route, le=str(bound)) == within
        assert value(samples, f"{name}_bucket", route=route, le="+Inf") == len(durations)


def test_callers_cannot_make_labels(observer: Observer) -> None:
    for number in range(500):
        complete(observer, method=b"M%d" % number)
        complete(observer, route=f"made up {number}")
        complete(observer, code=f"made_up_{number}")
        complete(
            observer, path=b"/%d" % number, user_id=f"{number}", request_id=b"%d" % number, client=f"10.0.0.{number}"
        )
    samples = scrape(observer)
    assert seen(samples, "gateway_requests_total", "method") == {"GET", "other"}
    assert seen(samples, "gateway_requests_total", "route") == {"orders", "other"}
    assert seen(samples, "gateway_requests_total", "code") == {"", "other"}
    assert requests(samples, "orders", "other", "2xx") == 500
    assert requests(samples, "other", "GET", "2xx") == 500
    assert len(samples) < 200


def test_methods_are_distinguished_by_case_as_in_http() -> None:
    log = Collected()
    complete(log.observer, method=b"get")
    assert requests(scrape(log.observer), "orders", "other", "2xx") == 1


def test_all_refusal_codes_are_labels() -> None:
    log = Collected()
    for code, (status, _) in CODES.items():
        complete(log.observer, code=code, status=status)
    assert seen(scrape(log.observer), "gateway_requests_total", "code") == set(CODES)


def test_routes_of_a_new_configuration_become_labels_and_old_counts_stay(observer: Observer) -> None:
    complete(observer)
    complete(observer, route="billing")
    observer.declare(["billing", "orders"])
    complete(observer, route="billing")
    complete(observer)
    samples = scrape(observer)
    assert requests(samples, "orders", "GET", "2xx") == 2
    assert requests(samples, "other", "GET", "2xx") == 1
    assert requests(samples, "billing", "GET", "2xx") == 1


@pytest.mark.parametrize("name", ['a"b', "a\\b", "a\nb", 'GET /x/{id}"} 1', "größe", "a,b={c}"])
def test_route_names_are_escaped(name: str) -> None:
    log = Collected(routes=(name,))
    complete(log.observer, route=name)
    assert requests(scrape(log.observer), name, "GET", "2xx") == 1


def test_the_page_is_in_the_text_format_with_types_and_texts() -> None:
    log = Collected()
    complete(log.observer)
    page = page_for(log.observer)
    assert page.endswith("\n")
    for kind, expected in (("TYPE", "kind"), ("HELP", "about")):
        described = dict(re.findall(rf"^# {kind} (\S+) (.+)$", page, re.MULTILINE))
        assert described["gateway_requests_total"] == getattr(FAMILIES["gateway_requests_total"], expected)
        assert all(text == getattr(FAMILIES[name], expected) for name, text in described.items())


def test_every_family_is_named_as_prometheus_advises() -> None:
    for name, family in FAMILIES.items():
        assert re.fullmatch(r"(gateway|process)_[a-z_]+[a-z]", name), name
        assert (family.kind == "counter") == name.endswith("_total"), name
        assert family.kind != "histogram" or name.endswith("_seconds"), name
        assert "\n" not in family.about and family.about.endswith("."), name
        assert "le" not in family.labels, name


def test_nothing_counted_yet_is_a_page_too() -> None:
    samples = scrape(Collected().observer)
    assert not any(name == "gateway_requests_total" for name, _ in samples)
    assert value(samples, "gateway_access_log_dropped_total") == 0


def test_the_version_and_the_process_are_on_the_page() -> None:
    before = time.time()
    observer = Collected().observer
    samples = scrape(observer)
    assert {dict(labels)["version"] for name, labels in samples if name == "gateway_build_info"} == {
        gateway.__version__
    }
    assert {dict(labels)["build"] for name, labels in samples if name == "gateway_build_info"} == {gateway.build()}
    assert before <= value(samples, "process_start_time_seconds") <= time.time()
    assert value(samples, "process_cpu_seconds_total") > 0
    assert value(samples, "process_resident_memory_bytes") > 5_000_000
    assert value(scrape(observer), "process_start_time_seconds") == value(samples, "process_start_time_seconds")


@pytest.mark.parametrize("content", [None, "", "12", "x y z"])
def test_memory_is_omitted_on_systems_that_do_not_report_it(
    content: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    statm = tmp_path / "statm"
    if content is not None:
        statm.write_text(content)
    assert resident_memory(statm) is None
    monkeypatch.setattr("gateway.observability.metrics.metrics.resident_memory", lambda: None)
    assert ("process_resident_memory_bytes", frozenset()) not in scrape(Collected().observer)


async def test_the_tasks_of_the_event_loop_are_on_the_page() -> None:
    metrics = Metrics(Collected().observer)
    before = value(samples_of((await metrics.page()).decode()), "gateway_tasks")
    sleeping = [asyncio.create_task(asyncio.sleep(60)) for _ in range(3)]
    assert value(samples_of((await metrics.page()).decode()), "gateway_tasks") == before + 3
    for task in sleeping:
        task.cancel()


def test_lost_log_lines_are_counted() -> None:
    def fail(_: bytes) -> None:
        raise OSError

    observer = observing(ObservabilitySettings(), fail)
    complete(observer)
    observer.close()
    assert value(scrape(observer), "gateway_access_log_dropped_total") == 1


def test_a_page_can_be_made_on_another_thread_while_requests_are_counted() -> None:
    names = tuple(f"route-{number}" for number in range(300))
    log = Collected(routes=names, access_log="off")
    pages: list[Any] = []

    def scrape_often() -> None:
        pages.extend(scrape(log.observer) for _ in range(3))

    scraper = threading.Thread(target=scrape_often)
    scraper.start()
    served = 0
    while scraper.is_alive():
        complete(log.observer, route=names[served % 300], status=200 + served % 7)
        served += 1
    scraper.join()
    assert len(pages) == 3
    samples = scrape(log.observer)
    assert sum(count for (name, _), count in samples.items() if name == "gateway_requests_total") == served


@pytest.mark.parametrize(
    ("status", "shown"),
    [(101, "1xx"), (200, "2xx"), (304, "3xx"), (404, "4xx"), (599, "5xx"), (0, "499"), (499, "499"), (999, "other")],
)
def test_statuses_are_counted_by_class(status: int, shown: str) -> None:
    log = Collected()
    complete(log.observer, status=status)
    assert requests(scrape(log.observer), "orders", "GET", shown) == 1


def test_the_gateways_own_time_is_separate_from_the_upstreams(observer: Observer) -> None:
    complete(observer, seconds=4.0, own=0.25, upstream=3.0)
    complete(observer, seconds=0.5)  # answered by the gateway itself
    samples = scrape(observer)

    def reported(name: str) -> tuple[float, float]:
        return value(samples, f"{name}_count", route="orders"), value(samples, f"{name}_sum", route="orders")

    assert reported("gateway_request_duration_seconds") == (2, 4.5)
    assert reported("gateway_own_duration_seconds") == (2, 0.75)
    assert reported("gateway_upstream_duration_seconds") == (1, 3.0)


def test_an_upstream_that_has_not_answered_is_measured_until_the_end(observer: Observer) -> None:
    complete(observer, seconds=4.0, own=1.0, status=504, code="upstream_timeout")
    assert value(scrape(observer), "gateway_upstream_duration_seconds_sum", route="orders") == 3.0


def test_websockets_which_last_for_hours_are_no_slow_requests(observer: Observer) -> None:
    complete(observer, seconds=3600.0, status=101)
    samples = scrape(observer)
    assert requests(samples, "orders", "GET", "1xx") == 1
    assert ("gateway_request_duration_seconds_count", frozenset({("route", "orders")})) not in samples


def test_logins_are_counted_by_outcome() -> None:
    log = Collected(routes=("accounts.login", "accounts.register"))
    for differing in (
        {},
        {"status": 401, "code": "invalid_credentials"},
        {"status": 401, "code": "invalid_credentials"},
        {"status": 429, "code": "locked_out"},
        {"route": "accounts.register"},
    ):
        complete(log.observer, **{"route": "accounts.login", "method": b"POST", **differing})
    samples = scrape(log.observer)
    outcomes = {
        outcome: value(samples, "gateway_logins_total", outcome=outcome)
        for outcome in seen(samples, "gateway_logins_total", "outcome")
    }
    assert outcomes == {"success": 1, "invalid_credentials": 2, "locked_out": 1}


def test_interrupted_responses_have_a_code_of_their_own(observer: Observer) -> None:
    complete(observer, code="upstream_aborted")
    assert requests(scrape(observer), "orders", "GET", "2xx", "upstream_aborted") == 1


def test_without_metrics_nothing_is_counted() -> None:
    log = Collected(metrics=False)
    complete(log.observer)
    assert log.line
    assert not log.observer.has_metrics
    assert list(log.observer.snapshot()) == []
    assert page_of(state_of(log.observer.snapshot(), ())) == b"\n"


def test_the_documentation_lists_the_metrics_there_are() -> None:
    text = (Path(__file__).parents[2] / "docs/operations.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `((?:gateway|process)_\w+)` \| (\w+) \| (.+?) \| (.+) \|$", text, re.MULTILINE)
    documented = {name: (kind, tuple(re.findall(r"`(\w+)`", labels)), about) for name, kind, labels, about in rows}
    assert documented == {family.name: (family.kind, family.labels, family.about) for family in FAMILIES.values()}
