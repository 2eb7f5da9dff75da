"""The access log: one line per request, for any content."""

import json
import os
import re
import time
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.observability.access_log import MAX_UNROUTED_PATH, REMEMBERED, loggable_path, timestamp
from gateway.observability.observer import BLOCK
from gateway.settings.model import ObservabilitySettings
from tests.observability.requests import Collected, complete, observing
from tests.support.memory import strings_in

NASTY_BYTES = st.one_of(
    st.binary(max_size=60), st.sampled_from([b'"', b"\\", b"\n{", b"\r\n", b"\x1b[2J", b"\x7f", b"\xff", b"%s%d"])
)
NASTY_TEXT = st.one_of(
    st.text(max_size=40), st.sampled_from(['"', "\\", "\n", "\u2028", "\u202e", "\ud800", "%s", "{}"])
)
NASTY_REQUEST = st.fixed_dictionaries(
    {
        "route": st.one_of(st.sampled_from(["orders", ""]), NASTY_TEXT),
        "method": st.one_of(st.just(b"GET"), NASTY_BYTES),
        "path": NASTY_BYTES,
        "status": st.integers(0, 999),
        "code": st.one_of(st.sampled_from(["", "token_missing"]), NASTY_TEXT),
        "user_id": NASTY_TEXT,
        "request_id": NASTY_BYTES,
        "client": NASTY_TEXT,
        "seconds": st.floats(0, 1e6),
        "received": st.integers(0, 2**63),
        "sent": st.integers(0, 2**63),
        "host": st.one_of(st.none(), NASTY_BYTES),
        "roles": st.frozensets(NASTY_TEXT, max_size=3),
    }
)


def test_a_line_holds_all_there_is_to_know_and_nothing_else() -> None:
    log = Collected()
    complete(log.observer)
    line = json.loads(log.line)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line.pop("time"))
    assert line == {
        "request_id": "0123456789abcdef",
        "client": "192.0.2.1",
        "host": "api.example.com",
        "method": "GET",
        "path": "/orders/7",
        "route": "orders",
        "status": 200,
        "code": "",
        "user": "u-42",
        "roles": ["user"],
        "duration_ms": 12.5,
        "upstream_ms": None,
        "received": 3,
        "sent": 68,
    }


def test_roles_are_sorted_and_a_request_without_a_host_has_an_empty_one() -> None:
    log = Collected()
    complete(log.observer, host=None, roles=frozenset({"b", "a", "ü,"}))
    line = json.loads(log.line)
    assert (line["host"], line["roles"]) == ("", ["a", "b", "ü,"])


def test_hosts_and_roles_of_the_past_are_not_cached() -> None:
    log = Collected(access_log="json")
    held = strings_in(log.observer)
    for number in range(3 * REMEMBERED):
        complete(log.observer, host=b"h%d" % number, roles=frozenset({str(number)}))
    assert log.text.count(b"\n") == 3 * REMEMBERED
    assert json.loads(log.text.splitlines()[-1])["host"] == f"h{3 * REMEMBERED - 1}"
    # The hosts, the roles, and the texts of both.
    assert strings_in(log.observer) <= held + 4 * REMEMBERED + 100


def test_a_refusal_is_logged_with_its_code() -> None:
    log = Collected()
    complete(log.observer, status=401, code="token_missing", user_id="")
    line = json.loads(log.line)
    assert (line["status"], line["code"], line["user"]) == (401, "token_missing", "")


def test_a_client_that_disconnects_before_any_response_is_logged_as_499() -> None:
    log = Collected()
    complete(log.observer, status=0)
    assert json.loads(log.line)["status"] == 499


@pytest.mark.parametrize("seconds", [0.0, 0.0000004, 0.001, 0.0010005, 0.999999, 1.0, 61.5, 86400.25])
def test_the_duration_is_in_milliseconds_with_microseconds_as_decimals(seconds: float) -> None:
    log = Collected()
    complete(log.observer, seconds=seconds)
    duration = json.loads(log.line)["duration_ms"]
    assert duration == pytest.approx(seconds * 1000, abs=0.00101)
    assert re.search(r'"duration_ms":\d+\.\d{3},', log.line)


def test_the_time_of_the_upstream_is_logged_separately() -> None:
    log = Collected()
    complete(log.observer, seconds=4.0, own=0.25, upstream=3.0)
    line = json.loads(log.line)
    assert (line["duration_ms"], line["upstream_ms"]) == (4000.0, 3000.0)


@pytest.mark.parametrize("form", ["json", "text"])
def test_a_traced_request_is_logged_with_its_trace(form: str) -> None:
    log = Collected(access_log=form, coloured=False)
    complete(log.observer, trace="4bf92f3577b34da6a3ce929d0e0e4736")
    if form == "json":
        assert json.loads(log.line)["trace_id"] == "4bf92f3577b34da6a3ce929d0e0e4736"
    else:
        assert log.line.endswith(" trace=4bf92f3577b34da6a3ce929d0e0e4736")


def test_the_time_is_that_of_the_last_tick() -> None:
    log = Collected()
    log.observer.tick(0.0)
    before = time.time()
    log.observer.tick(0.25)
    after = time.time()
    complete(log.observer)
    logged = datetime.fromisoformat(json.loads(log.line)["time"])
    assert logged.tzinfo == UTC
    assert before - 0.001 <= logged.timestamp() <= after


@pytest.mark.parametrize(
    ("now", "text"),
    [
        (0.0, "1970-01-01T00:00:00.000Z"),
        (1706688900.9996, "2024-01-31T08:15:00.999Z"),
        (951782400.25, "2000-02-29T00:00:00.250Z"),
    ],
)
def test_a_time_is_rfc_3339_in_utc(now: float, text: str) -> None:
    assert timestamp(now) == text


@given(st.lists(NASTY_REQUEST, min_size=1, max_size=5))
@example([{"path": b'/a"\n{"status":200}'}])
@example([{"request_id": b'","status":200,"x":"'}])
def test_any_request_is_one_line_of_json(requests: list[dict[str, Any]]) -> None:
    log = Collected()
    for request in requests:
        complete(log.observer, **request)
    lines = log.text.decode("ascii").split("\n")
    assert lines.pop() == ""
    assert len(lines) == len(requests)
    for line, request in zip(lines, requests, strict=True):
        assert line.isprintable()
        parsed = json.loads(line)
        assert len(parsed) == 15
        for name in ("request_id", "method"):
            if name in request:
                assert parsed[name].encode("latin-1") == request[name]
        for key, name in (("client", "client"), ("user", "user_id"), ("route", "route"), ("code", "code")):
            if name in request:
                assert parsed[key] == request[name]


@given(st.lists(NASTY_REQUEST, min_size=1, max_size=5), st.booleans())
def test_any_request_is_one_line_of_text(requests: list[dict[str, Any]], metrics: bool) -> None:
    log = Collected(access_log="text", coloured=False, metrics=metrics)
    for request in requests:
        complete(log.observer, **request)
    lines = log.text.decode("ascii").split("\n")
    assert lines.pop() == ""
    assert len(lines) == len(requests)
    assert all(line.isprintable() for line in lines)


@pytest.mark.parametrize("form", ["json", "text"])
@pytest.mark.parametrize("route", ["orders", ""])
@given(before=st.binary(max_size=20), after=st.binary(max_size=20))
def test_the_query_is_never_logged(form: str, route: str, before: bytes, after: bytes) -> None:
    log = Collected(access_log=form, coloured=False)
    complete(log.observer, route=route, path=b"/" + before + b"?token=SECRET" + after, admitted=False)
    assert b"SECRET" not in log.text


@pytest.mark.parametrize(
    ("target", "path"),
    [
        (b"/a/b", b"/a/b"),
        (b"/a?x=1", b"/a"),
        (b"/a#access_token=1", b"/a"),
        (b"/a?x#y", b"/a"),
        (b"http://user:password@host/a?x", b"/a"),
        (b"http://user:password@host", b""),
        (b"http://user:password@host?x=/y", b""),
        (b"user:password@host:443", b""),
        (b"*", b"*"),
        (b"", b""),
        (b"//evil.example/x", b"//evil.example/x"),
        (b"/" + b"a" * 5000, b"/" + b"a" * (MAX_UNROUTED_PATH - 1)),
    ],
)
def test_of_a_target_that_matched_nothing_only_the_path_is_logged(target: bytes, path: bytes) -> None:
    assert loggable_path(target) == path
    log = Collected()
    complete(log.observer, route="", path=target)
    assert json.loads(log.line)["path"] == path.decode()


def test_a_matched_path_is_logged_whole() -> None:
    log = Collected()
    complete(log.observer, path=b"/orders/" + b"a" * 5000)
    assert len(json.loads(log.line)["path"]) == 5008


def test_the_same_series_with_other_callers_gives_other_lines() -> None:
    log = Collected()
    complete(log.observer, user_id="u-1")
    complete(log.observer, user_id="u-2", client="2001:db8::1", path=b"/orders/8")
    first, second = map(json.loads, log.text.splitlines())
    assert (first["user"], first["client"], first["path"]) == ("u-1", "192.0.2.1", "/orders/7")
    assert (second["user"], second["client"], second["path"]) == ("u-2", "2001:db8::1", "/orders/8")


@pytest.mark.parametrize("form", ["json", "text"])
def test_lines_leave_in_blocks_or_with_the_tick_or_at_the_end(form: str) -> None:
    log = Collected(access_log=form)
    for _ in range(BLOCK - 1):
        complete(log.observer)
    assert log.blocks == []
    complete(log.observer)
    assert [block.count(b"\n") for block in log.blocks] == [BLOCK]
    complete(log.observer)
    log.observer.tick(0.0)
    complete(log.observer)
    log.observer.close()
    assert [block.count(b"\n") for block in log.blocks] == [BLOCK, 1, 1]
    log.observer.tick(0.25)
    assert len(log.blocks) == 3


@pytest.mark.parametrize("metrics", [True, False])
def test_off_logs_nothing(metrics: bool) -> None:
    log = Collected(access_log="off", metrics=metrics)
    complete(log.observer)
    assert log.text == b""


def test_off_without_a_writer_is_fine_too() -> None:
    observer = observing(ObservabilitySettings(access_log="off"))
    complete(observer)
    observer.tick(0.0)
    observer.close()
    assert observer.dropped == 0


def test_a_writer_that_fails_does_not_fail_a_request_and_its_lines_are_counted(
    capfd: pytest.CaptureFixture[str],
) -> None:
    def fail(_: bytes) -> None:
        raise RuntimeError("no")

    observer = observing(ObservabilitySettings(), fail)
    for _ in range(BLOCK + 2):
        complete(observer)
    assert observer.dropped == BLOCK
    observer.tick(0.0)
    assert observer.dropped == BLOCK + 2
    complete(observer)
    observer.tick(0.25)
    output = capfd.readouterr().err
    assert output.startswith("gateway: access-log: lines were dropped")
    assert f"lines={BLOCK + 2}" in output
    assert output.count("\n") == 1  # once a minute is enough


# ---- text


def test_text_is_aligned_and_shows_the_known_values() -> None:
    log = Collected(access_log="text", coloured=False)
    complete(log.observer)
    complete(
        log.observer,
        method=b"DELETE",
        status=401,
        code="token_missing",
        user_id="",
        client="198.51.100.123",
        seconds=75,
    )
    lines = [line[25:] for line in log.text.decode().splitlines()]
    rest = "received=3 sent=68 id=0123456789abcdef"
    assert lines == [
        f"200 GET       12.5ms 192.0.2.1       /orders/7 route=orders user=u-42 {rest}",
        f"401 DELETE     75.0s 198.51.100.123  /orders/7 code=token_missing route=orders {rest}",
    ]


def test_text_quotes_ambiguous_values() -> None:
    log = Collected(access_log="text", coloured=False)
    complete(log.observer, path=b"/a status=200", user_id='a" b', client="")
    assert r'"" ' in log.line
    assert r'"/a status=200"' in log.line
    assert r'user="a\" b"' in log.line


@pytest.mark.parametrize(("status", "colour"), [(200, 32), (304, 36), (404, 33), (502, 31), (101, None), (0, 33)])
def test_the_status_has_the_colour_of_its_class(status: int, colour: int | None) -> None:
    log = Collected(access_log="text", coloured=True)
    complete(log.observer, status=status)
    shown = f"{status or 499}"
    assert (f"\x1b[{colour}m{shown}\x1b[0m" if colour else f" {shown}\x1b[0m") in log.line


@pytest.mark.parametrize(("no_color", "coloured"), [(None, True), ("1", False)])
def test_colours_are_for_terminals_only_and_never_with_no_color(
    monkeypatch: pytest.MonkeyPatch, no_color: str | None, coloured: bool
) -> None:
    ours, terminal = os.openpty()
    if no_color is None:
        monkeypatch.delenv("NO_COLOR", raising=False)
    else:
        monkeypatch.setenv("NO_COLOR", no_color)
    with os.fdopen(terminal, "w") as stdout:
        monkeypatch.setattr("sys.__stdout__", stdout)
        observer = observing(ObservabilitySettings(access_log="text"))
        complete(observer)
        observer.close()
        assert (b"\x1b[" in os.read(ours, 4096)) is coloured
    os.close(ours)


def test_a_pipe_gets_no_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as stdout, os.fdopen(reading, "rb") as reader:
        monkeypatch.setattr("sys.__stdout__", stdout)
        observer = observing(ObservabilitySettings(access_log="text"))
        complete(observer)
        observer.close()
        line = os.read(reader.fileno(), 4096)
    assert line.endswith(b"id=0123456789abcdef\n")
    assert b"\x1b" not in line


def test_a_process_without_standard_output_serves_all_the_same(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.__stdout__", None)
    observer = observing(ObservabilitySettings(access_log="text"))
    complete(observer)
    observer.close()
    assert observer.dropped == 1
    assert "lines=1" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("sign_in", "expected"),
    [
        ({"kind": "session", "auth_time": 100.5, "acr": "aal1"}, {"credential": "session", "acr": "aal1"}),
        ({"kind": "token", "auth_time": 100.5, "acr": "aal1"}, {"credential": "token", "acr": "aal1"}),
        ({"kind": "api_key", "auth_time": 0.0, "acr": ""}, {"credential": "api_key", "acr": "", "age": None}),
    ],
)
@pytest.mark.parametrize("admitted", [True, False])
def test_a_line_has_the_credential_and_the_age_of_its_sign_in(
    sign_in: dict[str, Any], expected: dict[str, Any], admitted: bool
) -> None:
    before, log = time.time(), Collected()
    complete(log.observer, claims=SimpleNamespace(**sign_in), admitted=admitted)
    log.observer.close()

    entry = json.loads(b"".join(log.blocks))

    assert {name: entry.get(name) for name in expected} == expected
    if sign_in["auth_time"]:
        assert int(before - 101.5) <= entry["age"] <= time.time() - 99.5
