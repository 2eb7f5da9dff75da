"""`gateway top` beside a running gateway."""

import contextlib
import fcntl
import io
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from gateway.cli.top import address_of, page_address, screen_of
from gateway.errors import CannotStart
from gateway.observability.metrics.parser import reading_of_page
from gateway.observability.metrics.summary import RouteRow, Summary, TargetRow, summary_of
from gateway.settings.model import ServerSettings
from gateway.settings.model_tls import CertificateSettings
from tests.support import launcher
from tests.support.calls import calls_here
from tests.support.fleet import Fleet
from tests.support.processes import PROJECT, Gateway, free_port
from tests.support.raw import NoAnswer
from tests.support.small import Start, start

__all__ = ["start"]


def top(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return launcher.run(["-m", "gateway", "top", *arguments])


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    started = Fleet("a")
    yield started
    started.stop()


@pytest.fixture
def busy(start: Start, fleet: Fleet) -> Iterator[Gateway]:
    """A gateway that continuously answers and refuses requests."""
    gone = f"http://127.0.0.1:{free_port()}"
    upstreams = {"web": fleet.urls, "gone": gone, "half": [gone, *fleet.urls], "idle": fleet.urls}
    gateway = start(upstreams, routes=[{"path": "/users/**", "upstream": "web", "name": "users"}])
    ended = threading.Event()

    def callers() -> None:
        while not ended.wait(0.03):
            for path in ("/web/x", "/users/x", "/gone/x", "/half/x"):
                with contextlib.suppress(OSError, NoAnswer):  # a test can have ended it
                    gateway.get(path)

    thread = threading.Thread(target=callers)
    thread.start()
    yield gateway
    ended.set()
    thread.join()


def url(gateway: Gateway) -> str:
    return f"http://127.0.0.1:{gateway.address[1]}"


def test_the_json_contains_the_rates(busy: Gateway) -> None:
    done = top("--json", "--interval", "1", "--url", url(busy))
    assert (done.returncode, done.stderr) == (0, "")
    figures = json.loads(done.stdout)
    routes = {row["route"]: row for row in figures["routes"]}
    assert routes["/web/**"]["requests"] > 0
    assert routes["/web/**"]["refused"] == 0
    assert 0 < routes["/web/**"]["median"] <= routes["/web/**"]["slowest"]
    assert routes["/web/**"]["upstream"] > 0
    assert routes["users"]["refused"] == pytest.approx(routes["users"]["requests"])
    assert routes["users"]["upstream"] is None
    assert routes["/gone/**"]["errors"] == pytest.approx(routes["/gone/**"]["requests"])
    assert figures["codes"]["token_missing"] > 0
    states = [(row["upstream"], row["state"]) for row in figures["targets"]]
    assert sorted(states) == [
        *(("gone", "failing"), ("half", "ejected"), ("half", "up"), ("idle", "unused"), ("web", "up")),
    ]
    assert (figures["workers"], figures["out"]) == (1, [])
    assert figures["memory"] > 10_000_000


def test_without_a_terminal_one_sample_is_printed(busy: Gateway) -> None:
    done = top("--interval", "0.5", "--url", url(busy))
    assert done.returncode == 0, done.stderr
    headline, *rest = done.stdout.splitlines()
    assert re.match(r"[\d.]+ requests/s  2xx [\d.]+/s ", headline)
    assert any(line.split()[:1] == ["/web/**"] for line in rest)
    for upstream, state in (("gone", "failing"), ("half", "ejected")):
        assert any(re.match(rf"{upstream} +http://127\.0\.0\.1:\d+ +{state}", line) for line in rest)
    assert "\x1b" not in done.stdout


def test_the_live_view_shows_it_and_goes_on_when_the_gateway_is_gone(busy: Gateway) -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ.update(COLUMNS="150", LINES="40", TERM="xterm-256color")
        os.chdir(PROJECT)
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a suite that runs in the background ignores it
        command = [sys.executable, "-m", "gateway", "top", "--interval", "0.3", "--url", url(busy)]
        os.execv(sys.executable, command)
    seen = ""

    def until(text: str) -> None:
        nonlocal seen
        ends = time.monotonic() + 20
        while text not in seen:
            assert time.monotonic() < ends, seen[-2000:]
            if select.select([terminal], [], [], 0.2)[0]:
                seen += os.read(terminal, 65536).decode(errors="replace")

    try:
        until("/web/**")
        until("failing")
        until("ejected")
        busy.kill()
        until("Retrying")
        assert "Connection refused" in seen
        os.kill(pid, signal.SIGINT)
        until("\x1b[?1049l")  # the terminal is restored
    finally:
        os.close(terminal)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert "Traceback" not in seen


@contextlib.contextmanager
def live_view(gateway: Gateway, lines: int = 24, columns: int = 80) -> Iterator[tuple[launcher.Launched, int, bytes]]:
    """The process, the terminal and the first screen of a live view. Afterwards the terminal must be as it was
    before."""
    terminal, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    # The size is that of the terminal. GNU readline sets COLUMNS and LINES in this process behind os.environ.
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    before = termios.tcgetattr(terminal)
    process = launcher.launch(
        ["-m", "gateway", "top", "--interval", "0.3", "--url", url(gateway)],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**environment, "TERM": "xterm-256color"},
    )
    os.close(theirs)
    seen = b""
    try:
        while b"q quits" not in seen:
            assert select.select([terminal], [], [], 20)[0]
            seen += os.read(terminal, 65536)
        yield process, terminal, seen
        ends = time.monotonic() + 3.0
        with contextlib.suppress(OSError):  # the end of a pseudo-terminal
            while time.monotonic() < ends:
                if select.select([terminal], [], [], 0.2)[0]:
                    seen += os.read(terminal, 65536)
        assert b"\x1b[?1049l" in seen
        assert termios.tcgetattr(terminal)[3] == before[3]
    except BaseException:
        process.kill()
        raise
    finally:
        os.close(terminal)


@pytest.mark.parametrize("key", [b"q", b"Q", b"\x1b", b"jq", b"\x1b[A\nq"])
def test_a_key_ends_the_live_view_and_gives_the_terminal_back(busy: Gateway, key: bytes) -> None:
    with live_view(busy) as (process, terminal, _):
        os.write(terminal, key)
    assert process.wait(20) == 0


@pytest.mark.parametrize(("lines", "columns"), [(24, 80), (20, 60)])
def test_the_screen_fits_into_a_small_terminal(busy: Gateway, lines: int, columns: int) -> None:
    with live_view(busy, lines, columns) as (process, terminal, seen):
        os.write(terminal, b"q")
    assert process.wait(20) == 0
    frame = next(frame for frame in seen.split(b"\x1b[H") if b"q quits" in frame)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", frame.decode(errors="ignore")).replace("\r", "")
    screen = text.rstrip().split("\n")
    assert len(screen) <= lines
    assert max(map(len, screen)) <= columns
    assert any(re.match(r"/web/\*\* +[\d.]+ +0\.0 +0\.0 ", line) for line in screen)
    assert any(re.match(r"idle +http.* unused +0 +0 +0 +0\.0", line) for line in screen)
    assert screen[-1] == "q quits"


def test_an_arrow_key_is_no_escape_key(busy: Gateway) -> None:
    with live_view(busy) as (process, terminal, _):
        os.write(terminal, b"\x1b[B")
        assert os.read(terminal, 65536)  # the next screen
        assert process.poll() is None
        os.write(terminal, b"q")
    assert process.wait(20) == 0


def test_a_key_ends_the_live_view_of_a_gateway_that_hangs(busy: Gateway) -> None:
    with live_view(busy) as (process, terminal, _):
        busy.signal(signal.SIGSTOP)
        try:
            with contextlib.suppress(BlockingIOError):
                while select.select([terminal], [], [], 0.5)[0]:  # until the view waits for the gateway
                    os.read(terminal, 65536)
            os.write(terminal, b"q")
            assert process.wait(20) == 0
        finally:
            busy.signal(signal.SIGCONT)


def test_sigterm_ends_the_live_view_and_gives_the_terminal_back(busy: Gateway) -> None:
    with live_view(busy) as (process, _, _):
        process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 128 + signal.SIGTERM


def summary(routes: int, targets: int) -> Summary:
    rows = [
        RouteRow(f"GET,PUT /v1/customers/{{customer_id}}/orders-{number}/**", 1234.5, 0.5, 12.5, 0.0123, 1.2345, 1.2001)
        for number in range(routes)
    ]
    return Summary(
        seconds=2.0,
        version="0.2.0",
        workers=2,
        connections=1234,
        requests=23456.7,
        statuses={"2xx": 23000.1, "4xx": 400.2, "5xx": 56.4},
        codes={"forbidden": 123.4, "token_missing": 99.9, "rate_limited": 176.9},
        routes=rows,
        targets=[
            TargetRow("orders", f"https://orders-{number}.internal.example.com:8443", "ejected", 256, 12, 40, 3.5)
            for number in range(targets)
        ],
        cpu=1.75,
        memory=123 << 20,
        lag=0.0021,
        out=["redis"],
        route_count=routes,
    )


@pytest.mark.parametrize(("width", "height"), [(150, 50), (100, 30), (80, 24), (60, 20)])
@pytest.mark.parametrize(("routes", "targets"), [(1, 1), (3, 2), (40, 0), (40, 25)])
def test_every_figure_is_readable_at_any_usual_size(width: int, height: int, routes: int, targets: int) -> None:
    output = io.StringIO()
    console = Console(width=width, height=height, file=output, legacy_windows=False)
    console.print(screen_of(summary(routes, targets), "http://127.0.0.1:8000/_gateway/metrics", width, height))
    lines = output.getvalue().splitlines()
    assert len(lines) <= height
    assert all(len(line) <= width for line in lines)
    text = "\n".join(lines)
    for figure in ("23456.7 requests/s", "2xx 23000.1/s", "1234 connections", "1.75 cores", "123 MiB", "REDIS IS DOWN"):
        assert figure in text
    row = next(line for line in lines if line.startswith("GET"))
    assert row.split()[-9:] == ["1234.5", "0.5", "12.5", "12.3", "ms", "1234.5", "ms", "1200.1", "ms"]
    if targets:
        row = next(line for line in lines if "ejected" in line)
        assert row.split()[-5:] == ["ejected", "256", "12", "40", "3.5"]
    assert lines[-1] == "q quits"


@pytest.mark.parametrize(
    ("observability", "why"),
    [({"metrics": False}, "observability.metrics is off"), ({"operations_allow": []}, "operations_allow")],
)
def test_unreadable_metrics_are_reported_clearly(
    observability: dict[str, object], why: str, start: Start, fleet: Fleet
) -> None:
    gateway = start({"web": fleet.urls}, observability=observability)
    done = top("--once", "--url", url(gateway))
    assert done.returncode == 2
    assert why in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ("127.0.0.1:1", "Connection refused (is the gateway running? --url gives its address)"),
        ("ftp://example.com", "not the http:// or https:// address of a gateway"),
        ("http://", "not the http:// or https:// address of a gateway"),
    ],
)
def test_a_gateway_that_is_not_there_is_one_line(given: str, why: str) -> None:
    done = top("--url", given)
    assert done.returncode == 2
    assert why in done.stderr
    assert done.stderr.count("\n") == 1


def test_something_else_that_answers_is_no_gateway(fleet: Fleet) -> None:
    done = top("--url", fleet.urls[0])
    assert done.returncode == 2
    assert "the response is not a metrics page of the gateway" in done.stderr


def test_the_address_is_that_of_the_file(tmp_path: Path) -> None:
    port = free_port()
    file = tmp_path / "gateway.yaml"
    file.write_text(f"server: {{port: {port}}}\n")
    assert f"http://127.0.0.1:{port}/_gateway/metrics" in top("--config", str(file)).stderr


CERTIFICATES = (CertificateSettings(certificate="cert.pem"),)


@pytest.mark.parametrize(
    ("server", "address"),
    [
        (ServerSettings(), "http://127.0.0.1:8000"),
        (ServerSettings(host="0.0.0.0", port=80), "http://127.0.0.1:80"),
        (ServerSettings(host="::", port=80), "http://[::1]:80"),
        (ServerSettings(operations_port=9000), "http://127.0.0.1:9000"),
        (ServerSettings(tls=CERTIFICATES), "https://127.0.0.1:8000"),
        (ServerSettings(tls=CERTIFICATES, operations_port=9000), "http://127.0.0.1:9000"),
    ],
)
def test_where_a_gateway_is_reached_from_this_machine(server: ServerSettings, address: str) -> None:
    assert address_of(server) == address


@pytest.mark.parametrize("given", ["gw:8000", "http://gw:8000/", "http://gw:8000/_gateway/metrics"])
def test_an_address_leads_to_the_page(given: str) -> None:
    assert page_address(given) == "http://gw:8000/_gateway/metrics"
    with pytest.raises(CannotStart):
        page_address("file:///etc/passwd")


# ---- the summary


def page(count: int, fast: int) -> str:
    """A page on which `fast` of `count` requests took up to 100 ms, the others up to a second."""
    name = "gateway_request_duration_seconds_bucket"
    return "\n".join(
        (
            f'gateway_requests_total{{route="a\\"b",method="GET",status="2xx",code=""}} {count}',
            f'{name}{{route="a\\"b",le="0.1"}} {fast}',
            f'{name}{{route="a\\"b",le="1.0"}} {count}',
            f'{name}{{route="a\\"b",le="+Inf"}} {count}',
        )
    )


def test_rates_cover_the_time_between_two_samples() -> None:
    summary = summary_of(reading_of_page(page(1000, 1000)), reading_of_page(page(1100, 1050)), 2.0)
    (row,) = summary.routes
    assert (row.route, row.requests, summary.requests) == ('a"b', 50.0, 50.0)
    assert row.median == pytest.approx(0.1)
    assert row.slowest == pytest.approx(0.1 + 0.9 * 49 / 50)


def test_a_gateway_that_was_started_again_has_no_negative_rates() -> None:
    summary = summary_of(reading_of_page(page(1000, 1000)), reading_of_page(page(10, 10)), 1.0)
    assert summary.requests == 10.0


def test_the_work_of_a_summary_grows_with_the_routes_and_not_with_their_square() -> None:
    counts = []
    for routes in (50, 200):
        readings = [
            reading_of_page("".join(page(count, count).replace('a\\"b', f"route-{n}") + "\n" for n in range(routes)))
            for count in (10, 20)
        ]
        with calls_here() as calls:
            summary = summary_of(readings[0], readings[1], 1.0)
        assert len(summary.routes) == summary.route_count == routes
        counts.append(len(calls))
    assert counts[1] < 5 * counts[0]


@pytest.mark.parametrize("text", ["<html>", "a b c d", "gateway_x{ 1", "x"])
def test_a_text_that_is_no_metrics_page_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"not a line|could not convert"):
        reading_of_page(text)
