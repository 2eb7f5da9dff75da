"""Traces as received by a collector, for requests through both servers."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.observability.collector import Collector, collecting
from tests.support import launcher
from tests.support.fleet import OK, Fleet, Served
from tests.support.processes import FACES, PROJECT, Face, Gateway, free_port, write_configuration
from tests.support.small import Start, small, start
from tests.support.waiting import eventually, within

__all__ = ["start"]

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"
SAMPLED = f"traceparent: 00-{TRACE}-{PARENT}-01"


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as collector:
        yield collector


@pytest.fixture(autouse=True)
def _sent_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """The default interval is five seconds."""
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")


class Echo:
    """Upstreams that store the received heads."""

    def __init__(self) -> None:
        self.fleet = Fleet("a")
        self.fleet.behave(self._answer)
        self.heads: list[list[bytes]] = []
        self.urls = self.fleet.urls

    def _answer(self, served: Served) -> None:
        self.heads.append(served.head.split(b"\r\n"))
        served.send(b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n" if b"/fails" in served.target else OK)

    def lines(self, name: bytes) -> list[bytes]:
        """The fields of the last request with this name."""
        return [line for line in self.heads[-1][1:] if line.lower().startswith(name + b":")]


@pytest.fixture
def echo() -> Iterator[Echo]:
    echo = Echo()
    yield echo
    echo.fleet.stop()


def tracing(collector: Collector, **more: Any) -> dict[str, Any]:
    return {"tracing": {"otlp_endpoint": collector.url}, "access_log": "json", **more}


@pytest.fixture(params=FACES)
def gateway(request: pytest.FixtureRequest, start: Start, echo: Echo, collector: Collector) -> Gateway:
    face: Face = request.param
    routes = [{"path": "/users/**", "upstream": "web", "name": "users"}]
    return start({"web": echo.urls}, face, observability=tracing(collector), routes=routes)


def logged(gateway: Gateway, path: str) -> dict[str, Any]:
    lines = [json.loads(line) for line in gateway.log().splitlines() if line.startswith("{")]
    return next(line for line in lines if line["path"] == path)


def stopped(gateway: Gateway) -> None:
    """The last spans are sent at shutdown."""
    gateway.stop()


def test_a_trace_is_continued_as_it_was_brought(gateway: Gateway, echo: Echo, collector: Collector) -> None:
    trace = TRACE[:-1] + ("a" if gateway.face == "serve" else "b")
    line = f"traceparent: 00-{trace}-{PARENT}-01"
    assert gateway.get("/web/x?token=SECRET", line, "tracestate: vendor=opaque", "tracestate: b=2").status == 200
    spans = collector.wait_for(trace, {"GET /web/**", "decide", "upstream"})
    whole, decide, upstream = spans["GET /web/**"], spans["decide"], spans["upstream"]
    assert whole.parent == PARENT
    assert decide.parent == upstream.parent == whole.id
    assert echo.lines(b"traceparent") == [f"traceparent: 00-{trace}-{upstream.id}-01".encode()]
    assert [line.lower() for line in echo.lines(b"tracestate")] == [b"tracestate: vendor=opaque", b"tracestate: b=2"]
    assert whole.began <= decide.began <= decide.ended <= upstream.ended <= whole.ended
    assert (whole.kind, upstream.kind) == (2, 3), "SERVER and CLIENT"
    assert whole.attributes["http.response.status_code"] == upstream.attributes["http.response.status_code"] == 200
    assert whole.attributes["url.path"] == "/web/x"
    assert whole.attributes["http.route"] == "/web/**"
    assert upstream.attributes["gateway.upstream"] == "web"
    assert collector.service["service.name"] == "gateway"
    assert b"SECRET" not in collector.raw
    stopped(gateway)
    assert logged(gateway, "/web/x")["trace_id"] == trace


def test_a_trace_is_begun_where_none_was_brought(gateway: Gateway, echo: Echo, collector: Collector) -> None:
    assert gateway.get("/web/begun").status == 200
    (line,) = echo.lines(b"traceparent")
    version, trace, parent, flags = line.decode().removeprefix("traceparent: ").split("-")
    assert version == "00"
    assert int(flags, 16) & 1, "sampled"
    spans = collector.wait_for(trace, {"GET /web/**", "decide", "upstream"})
    assert spans["GET /web/**"].parent == ""
    assert spans["upstream"].id == parent


BROKEN = {
    "no trace": ("traceparent: nonsense", "tracestate: a=1"),
    "no id": (f"traceparent: 00-{'0' * 32}-{PARENT}-01", "tracestate: a=1"),
    "a version that is none": (f"traceparent: ff-{TRACE}-{PARENT}-01", "tracestate: a=1"),
    "twice": (SAMPLED, SAMPLED, "tracestate: a=1"),
    "a state alone": ("tracestate: a=1",),
}


def test_a_trace_that_does_not_hold_is_not_continued(start: Start, echo: Echo, collector: Collector) -> None:
    gateway = start({"web": echo.urls}, observability=tracing(collector))
    for what, lines in BROKEN.items():
        assert gateway.get("/web/x", *lines).status == 200
        (line,) = echo.lines(b"traceparent")
        assert TRACE.encode() not in line, what
        assert echo.lines(b"tracestate") == [], what


def test_a_trace_that_the_client_does_not_sample_is_forwarded_and_not_recorded(
    gateway: Gateway, echo: Echo, collector: Collector
) -> None:
    trace = "c" * 31 + str(FACES.index(gateway.face))
    assert gateway.get("/web/x", f"traceparent: 00-{trace}-{PARENT}-00").status == 200
    (line,) = echo.lines(b"traceparent")
    assert line.startswith(f"traceparent: 00-{trace}-".encode())
    assert line.endswith(b"-00")
    stopped(gateway)
    assert trace not in collector.traces
    assert logged(gateway, "/web/x")["trace_id"] == trace


def test_a_lookup_is_a_span_of_its_own(gateway: Gateway, collector: Collector) -> None:
    account = gateway.newcomer()
    trace = "d" * 31 + str(FACES.index(gateway.face))
    line = f"traceparent: 00-{trace}-{PARENT}-01"
    assert gateway.get("/users/x", account.line, line).status == 200
    spans = collector.wait_for(trace, {"GET users", "decide", "lookup", "upstream"})
    assert spans["lookup"].parent == spans["decide"].id
    assert spans["decide"].began <= spans["lookup"].began <= spans["lookup"].ended <= spans["decide"].ended
    assert account.token.encode() not in collector.raw


WRONG = [
    ("/users/x", {"GET users", "decide"}, 401, "token_missing", False),
    ("/nowhere", {"GET", "decide"}, 404, "no_route", False),
    ("/web/fails", {"GET /web/**", "decide", "upstream"}, 503, "", True),
    ("/gone/x", {"GET /gone/**", "decide", "upstream"}, 502, "upstream_unreachable", True),
]


def test_failures_are_visible_in_the_trace(start: Start, echo: Echo, collector: Collector) -> None:
    routes = [{"path": "/users/**", "upstream": "web", "name": "users"}]
    upstreams = {"web": echo.urls, "gone": f"http://127.0.0.1:{free_port()}"}
    gateway = start(upstreams, observability=tracing(collector), routes=routes)
    for number, (path, names, status, code, failed) in enumerate(WRONG, 1):
        trace = f"{number:032x}"
        assert gateway.get(path, f"traceparent: 00-{trace}-{PARENT}-01").status == status
        spans = collector.wait_for(trace, names)
        (whole,) = [span for name, span in spans.items() if name.startswith("GET")]
        assert whole.attributes["http.response.status_code"] == status
        assert (whole.attributes["gateway.code"], whole.failed) == (code, failed), path
        if code and "upstream" in spans:
            assert (spans["upstream"].attributes["gateway.code"], spans["upstream"].failed) == (code, True)


def test_without_tracing_trace_fields_of_a_client_pass_unchanged(start: Start, echo: Echo) -> None:
    gateway = start({"web": echo.urls}, observability={"access_log": "json"})
    assert gateway.get("/web/x", SAMPLED, "tracestate: a=1").status == 200
    assert echo.lines(b"traceparent") == [SAMPLED.encode()]
    stopped(gateway)
    assert "trace_id" not in logged(gateway, "/web/x")


def test_a_collector_that_is_gone_delays_no_request(start: Start, echo: Echo) -> None:
    endpoint = {"tracing": {"otlp_endpoint": f"http://127.0.0.1:{free_port()}"}}
    gateway = start({"web": echo.urls}, observability=endpoint)
    for _ in range(20):
        assert gateway.get("/web/x").status == 200
    with within(6.0):
        assert gateway.stop() == 0


# ---- lost spans


def test_each_answer_by_which_spans_are_lost_is_logged_once(start: Start, echo: Echo, collector: Collector) -> None:
    gateway = start({"web": echo.urls}, observability=tracing(collector))

    def lost(status: int) -> int:
        return gateway.log().count(f"the collector at {collector.url}/v1/traces answered {status} ")

    statuses = (301, 302, 303, 304, 307, 308, 400, 401, 404, 413, 500)
    try:
        for status in (*statuses, *statuses):
            collector.refuses_with = (status, {"location": f"{collector.url}/sign-in"})
            before = collector.refused
            assert gateway.get(f"/web/{status}").status == 200
            eventually(lambda before=before: collector.refused > before)  # type: ignore[misc]
            eventually(lambda status=status: lost(status))  # type: ignore[misc]
    finally:
        collector.refuses_with = None
    assert [lost(status) for status in statuses] == [1] * len(statuses), gateway.log()


def test_a_collector_that_cannot_be_reached_is_logged_with_the_error(start: Start, echo: Echo) -> None:
    endpoint = {"tracing": {"otlp_endpoint": f"http://127.0.0.1:{free_port()}"}}
    gateway = start({"web": echo.urls}, observability=endpoint)
    gateway.get("/web/x")
    eventually(lambda: "cannot be reached (ConnectionRefusedError: [Errno 111] " in gateway.log(), timeout=15)


_WITHOUT = """
import sys

missing = sys.argv.pop(1)

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name == missing or name.startswith(missing + "."):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
for name in [name for name in sys.modules if name == missing or name.startswith(missing + ".")]:
    del sys.modules[name]
"""
_COMMAND = _WITHOUT + "from gateway.cli.program import run; sys.exit(run(sys.argv[1:]))"
_UVICORN = _WITHOUT + "from uvicorn.main import main; main()"


def without(module: str, program: str, config: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run a program without an installed module."""
    environment = os.environ | {"GATEWAY_CONFIG": str(config)}
    return launcher.run(["-c", program, module, *arguments], env=environment)


def command_without(module: str, config: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    return without(module, _COMMAND, config, *words, "--config", str(config))


@pytest.fixture
def traced(tmp_path: Path) -> Path:
    """A configuration with tracing."""
    configuration = small(tmp_path, {"web": "http://127.0.0.1:9"})
    configuration["observability"]["tracing"] = {"otlp_endpoint": "http://127.0.0.1:4318"}
    return write_configuration(tmp_path, configuration)


# Other packages depend on the API alone, so it can be installed without the SDK and the exporter.
@pytest.mark.parametrize("missing", ["opentelemetry", "opentelemetry.exporter"])
def test_without_the_extra_check_and_serve_name_the_key_and_the_remedy(traced: Path, missing: str) -> None:
    line = next(n for n, text in enumerate(traced.read_text().splitlines(), 1) if "otlp_endpoint:" in text)
    checked = command_without(missing, traced, "check")
    served = command_without(missing, traced, "serve", "--port", "0")
    for outcome in (checked, served):
        assert outcome.returncode == 2, outcome
        problems = [each for each in (outcome.stdout + outcome.stderr).splitlines() if "observability.tracing" in each]
        assert len(problems) == 1
        assert problems[0].startswith(f"{traced}:{line}:"), problems
        assert f"needs {missing}" in problems[0]
        assert "(pip install 'asgi-gateway[tracing]')" in problems[0]
        assert "Traceback" not in outcome.stderr
    assert checked.stdout.splitlines()[0] in served.stderr


def test_without_the_extra_the_asgi_face_reports_the_same(traced: Path) -> None:
    factory = ("--factory", "gateway.app:create_app_from_environment", "--port", "0")
    done = without("opentelemetry", _UVICORN, traced, *factory)
    assert done.returncode != 0
    assert f"{traced}:" in done.stderr and "(pip install 'asgi-gateway[tracing]')" in done.stderr, done.stderr[-2000:]


def test_commands_that_trace_nothing_do_not_need_the_extra(traced: Path) -> None:
    for words in (["db", "upgrade"], ["explain", "GET", "/web/x"]):
        # An interpreter of its own imports every module without the extra.
        command = [sys.executable, "-c", _COMMAND, "opentelemetry", *words, "--config", str(traced)]
        outcome = subprocess.run(command, capture_output=True, text=True, timeout=30, cwd=PROJECT)
        assert outcome.returncode == 0, outcome


def test_without_tracing_its_libraries_are_not_loaded() -> None:
    asked = (
        "import gateway.server.serve, sys; print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, timeout=30, cwd=PROJECT)
    assert done.stdout.strip() == "[]"
