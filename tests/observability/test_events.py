"""Events of the gateway itself on standard error: one line each, without forged content, secrets or floods."""

import asyncio
import io
import logging
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.observability import events
from gateway.observability.events import INTERVAL, REMEMBERED, EventHandler, FailureCounter, RateLimitedLog, event
from gateway.observability.observer import Observer
from gateway.settings.model import ObservabilitySettings
from tests.support.waiting import cpu_within

AT = r" at=\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"
JWT = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiI0MiJ9.c2lnbmF0dXJl"


class Clock:
    """A clock that moves only on demand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def raised(message: str = "broken") -> ValueError:
    """An exception with a traceback."""
    try:
        raise ValueError(message)
    except ValueError as error:
        return error


class CapturedOutput:
    """The output on standard error since the test began."""

    def __init__(self, capture: pytest.CaptureFixture[str]) -> None:
        self._capture = capture
        self._text = ""

    def getvalue(self) -> str:
        self._text += self._capture.readouterr().err
        return self._text


@pytest.fixture
def printed(capfd: pytest.CaptureFixture[str]) -> CapturedOutput:
    return CapturedOutput(capfd)


def test_an_event_is_one_line_with_its_kind_its_facts_and_the_time(capfd: pytest.CaptureFixture[str]) -> None:
    event("degraded", "Redis does not answer", store="redis", after=0.25, port=6379)
    line = capfd.readouterr().err
    assert re.fullmatch(rf"gateway: degraded: Redis does not answer store=redis after=0\.25 port=6379{AT}\n", line)


def test_facts_that_are_none_are_left_out_and_strange_ones_are_quoted(printed: CapturedOutput) -> None:
    event("start", "listening", url="http://127.0.0.1:8000", name=None, file="my file", empty="", kind="x", message="y")
    expected = r'gateway: start: listening url=http://127\.0\.0\.1:8000 file="my file" empty="" kind=x message=y'
    assert re.fullmatch(expected + AT + "\n", printed.getvalue())


def test_on_a_terminal_the_time_is_left_out() -> None:
    ours, terminal = os.openpty()
    program = "from gateway.observability.events import event; event('start', 'größe', port=1)"
    process = subprocess.run([sys.executable, "-c", program], stderr=terminal, timeout=30, check=True)
    os.close(terminal)
    assert process.returncode == 0
    assert os.read(ours, 4096).decode() == "gateway: start: größe port=1\r\n"
    os.close(ours)


@given(st.text(), st.text())
def test_an_event_is_one_line_for_any_text(message: str, fact: str) -> None:
    stream = io.StringIO()  # a program that embeds the gateway can install such a stream
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stderr", stream)
        event("failed", message, fact=fact)
    text = stream.getvalue()
    assert text.endswith("\n")
    assert text[:-1].isprintable()
    assert text.startswith("gateway: failed: ")


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        (f"bad token {JWT}", "c2lnbmF0dXJl"),
        (f"header=Bearer {JWT}!", "eyJhbGci"),
        ("Authorization: Bearer 0123456789abcdef0123", "0123456789abcdef"),
        ("key gwk_Zm9vYmFy refused", "Zm9vYmFy"),
        ("cannot reach postgresql://gateway:hunter2@db/gateway", "hunter2"),
        ("cannot reach redis://:p@ss:w@rd@db:6379/0", "w@rd"),
        ("-----BEGIN EC PRIVATE KEY-----\nMHcCAQEE\n-----END EC PRIVATE KEY-----", "MHcCAQEE"),
        ("-----BEGIN PRIVATE KEY-----\nMHcCAQEE", "MHcCAQEE"),
    ],
)
def test_text_like_a_credential_is_removed(text: str, secret: str, printed: CapturedOutput) -> None:
    event("failed", text, fact=text)
    FailureCounter().report(raised(text), text, fact=text)
    assert secret not in printed.getvalue()
    assert printed.getvalue().count("[secret]") >= 5


@pytest.mark.parametrize("text", ["a bearer token is missing", "see https://example.com/a@b", "eyJ is no token"])
def test_text_unlike_a_credential_is_kept(text: str, printed: CapturedOutput) -> None:
    event("failed", text)
    assert text in printed.getvalue()


@pytest.mark.parametrize("unit", ["eyJ", "eyJ.", "gwk_", "://", "://a", "@", "-----BEGIN PRIVATE KEY-----", "bearer "])
def test_a_long_message_takes_no_long_time(unit: str, printed: CapturedOutput) -> None:
    with cpu_within(1.0):
        event("failed", unit * 20_000)
    assert len(printed.getvalue()) < 5000


def test_an_unexpected_exception_is_reported_with_its_traceback_indented(printed: CapturedOutput) -> None:
    FailureCounter().report(raised("broken\ngateway: forged: line\x1b[2J"), "deciding on a request", request_id="r-1")
    first, *rest = printed.getvalue().splitlines()
    assert re.fullmatch(rf"gateway: failure: deciding on a request request_id=r-1 error=ValueError{AT}", first)
    assert rest[0] == "    Traceback (most recent call last):"
    assert any("raise ValueError(message)" in line for line in rest)
    assert all(line.startswith("    ") and line.isprintable() for line in rest)


def test_the_cause_of_an_exception_is_reported_too(printed: CapturedOutput) -> None:
    try:
        try:
            raise KeyError("inner")
        except KeyError as inner:
            raise RuntimeError("outer") from inner
    except RuntimeError as error:
        FailureCounter().report(error, "serving")
    assert "KeyError: 'inner'" in printed.getvalue()
    assert "RuntimeError: outer" in printed.getvalue()


def test_an_exception_that_was_never_raised_can_be_reported(printed: CapturedOutput) -> None:
    FailureCounter().report(ValueError("made, not raised"), "serving")
    assert "made, not raised" in printed.getvalue()


def test_a_long_traceback_keeps_its_beginning_and_its_end(printed: CapturedOutput) -> None:
    try:
        raise ValueError("\n".join(f"line {number}" for number in range(1000)))
    except ValueError as error:
        FailureCounter().report(error, "serving")
    lines = printed.getvalue().splitlines()
    assert len(lines) < 100
    assert "Traceback" in lines[1]
    assert "    …" in lines
    assert lines[-1].strip() == "line 999"


def test_the_same_failure_is_reported_once_a_minute_with_its_count(printed: CapturedOutput) -> None:
    clock = Clock()
    failures = FailureCounter(clock)
    for number in range(41):
        failures.report(raised(f"number {number}"), "serving")
    assert printed.getvalue().count("Traceback") == 1
    assert "repeated" not in printed.getvalue()
    clock.now += INTERVAL
    failures.report(raised(), "serving")
    failures.report(raised(), "serving")
    assert printed.getvalue().count("Traceback") == 2
    assert " repeated=40 " in printed.getvalue()


def test_failures_of_other_kinds_or_places_are_reported_separately(printed: CapturedOutput) -> None:
    failures = FailureCounter()
    failures.report(raised(), "serving")
    try:
        raise ValueError("elsewhere")
    except ValueError as error:
        failures.report(error, "serving")
    failures.report(KeyError("another type"), "serving")
    failures.report(TypeError("another type"), "serving")
    assert printed.getvalue().count("gateway: failure") == 4


def test_failures_beyond_the_remembered_ones_count_as_one() -> None:
    clock = Clock()
    repeats = RateLimitedLog(clock)
    admitted = [repeats.admit(number) for number in range(REMEMBERED + 50)]
    assert admitted == [0] * (REMEMBERED + 1) + [None] * 49
    clock.now += INTERVAL
    assert repeats.admit("new") == 0
    assert repeats.admit("new") is None


def test_failures_of_one_place_in_different_work_are_reported_separately(printed: CapturedOutput) -> None:
    failures = FailureCounter()

    def deciding() -> None:
        raised_by_a_library()

    def verifying() -> None:
        raised_by_a_library()

    for work in (deciding, verifying, deciding, verifying):
        try:
            work()
        except ValueError as error:
            failures.report(error, "serving")
    assert printed.getvalue().count("Traceback") == 2


def raised_by_a_library() -> None:
    raise ValueError("broken")


def test_uncaught_errors_of_callbacks_and_tasks_are_reported(printed: CapturedOutput) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(FailureCounter().on_loop_error)
        loop.call_soon(lambda: 1 / 0)
        for _ in range(3):
            loop.call_exception_handler({"message": "something odd\nhappened"})
        await asyncio.sleep(0.01)

    asyncio.run(main())
    text = printed.getvalue()
    assert "ZeroDivisionError: division by zero" in text
    assert text.count(r"gateway: failure: something odd\nhappened") == 1


def test_a_context_without_a_message_is_reported(printed: CapturedOutput) -> None:
    async def main() -> None:
        FailureCounter().on_loop_error(asyncio.get_running_loop(), {})

    asyncio.run(main())
    assert "the event loop failed" in printed.getvalue()


# ---- logging


@pytest.fixture
def log() -> Iterator[logging.Logger]:
    logger = logging.getLogger("tests.operations.events")
    handler = EventHandler(FailureCounter())
    logger.addHandler(handler)
    logger.propagate = False
    yield logger
    logger.removeHandler(handler)
    logger.propagate = True


def test_warnings_of_libraries_come_in_the_same_form(log: logging.Logger, printed: CapturedOutput) -> None:
    log.warning("cannot %s", "resolve\nname")
    log.info("nobody asked")
    expected = rf"gateway: warning: cannot resolve\\nname logger=tests\.operations\.events{AT}\n"
    assert re.fullmatch(expected, printed.getvalue())


def test_logged_exceptions_are_reported_with_their_traceback(log: logging.Logger, printed: CapturedOutput) -> None:
    try:
        raise ValueError("broken")
    except ValueError:
        for _ in range(5):
            log.exception("deciding failed")
    assert printed.getvalue().startswith(
        "gateway: failure: deciding failed logger=tests.operations.events error=ValueError"
    )
    assert printed.getvalue().count("ValueError: broken") == 1


def test_an_exception_logged_without_one_is_a_message(log: logging.Logger, printed: CapturedOutput) -> None:
    log.exception("nothing was raised")
    assert printed.getvalue().startswith("gateway: error: nothing was raised")


def test_a_message_of_one_place_is_reported_once_a_minute(log: logging.Logger, printed: CapturedOutput) -> None:
    for number in range(10):
        log.warning("number %d", number)
    log.warning("another")
    assert printed.getvalue().count("number") == 1
    assert printed.getvalue().count("another") == 1


# ---- causes: the rate limit of one must not hide another


@pytest.fixture
def own_log() -> Iterator[logging.Logger]:
    """A logger of the gateway itself."""
    logger = logging.getLogger("gateway.tests")
    handler = EventHandler(FailureCounter())
    logger.addHandler(handler)
    logger.propagate = False
    yield logger
    logger.removeHandler(handler)


def test_each_cause_at_one_place_has_a_line_of_its_own(own_log: logging.Logger, printed: CapturedOutput) -> None:
    for name in ("one", "two", "three") * 3:
        own_log.warning("issuer %s: the keys could not be fetched", name)
    assert [printed.getvalue().count(f"issuer {name}:") for name in ("one", "two", "three")] == [1, 1, 1]


def test_figures_beside_a_named_cause_make_no_second_line(own_log: logging.Logger, printed: CapturedOutput) -> None:
    for seconds in range(5):
        for issuer in ("one", "two"):
            own_log.warning("the clock of %s is %d s ahead", issuer, seconds, extra={"cause": issuer})
    assert printed.getvalue().count("ahead") == 2


def test_no_place_uses_up_the_lines_of_another(own_log: logging.Logger, printed: CapturedOutput) -> None:
    for number in range(3 * REMEMBERED):
        own_log.warning("target %d is ejected", number)
    own_log.warning("the database is unavailable")
    text = printed.getvalue()
    assert text.count("is ejected") == REMEMBERED + 1
    assert text.count("the database is unavailable") == 1


def test_a_message_that_cannot_be_formatted_is_reported_unformatted(printed: CapturedOutput) -> None:
    record = logging.LogRecord("library", logging.ERROR, __file__, 1, "%d of %d", ("one",), None)
    EventHandler(FailureCounter()).handle(record)
    assert printed.getvalue().startswith("gateway: error: %d of %d logger=library")


# ---- failed requests


def test_a_failed_request_is_reported_with_its_id_and_not_again_for_a_while(printed: CapturedOutput) -> None:
    observer = Observer(ObservabilitySettings(access_log="off"), [])
    for number in range(5):
        observer.failed(b"r-%d\n" % number, "upstream web: connection reset")
    observer.failed(b"r-9", "upstream web: not HTTP")
    first, second = printed.getvalue().splitlines()
    assert first.startswith(r'gateway: failed: upstream web: connection reset request_id="r-0\n"')
    assert second.startswith("gateway: failed: upstream web: not HTTP request_id=r-9")


# ---- standard error itself


@pytest.mark.parametrize("closed", [True, False])
def test_without_standard_error_nothing_is_printed_and_nothing_breaks(
    closed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = io.StringIO()
    stream.close()
    monkeypatch.setattr("sys.stderr", stream if closed else None)
    event("start", "listening")


@pytest.mark.parametrize("left", [True, False])
def test_a_closed_or_stopped_reader_delays_no_request(left: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    if left:
        os.close(reading)
    else:
        os.set_blocking(writing, False)
        with pytest.raises(BlockingIOError):
            while True:
                os.write(writing, b"x" * 4096)
        os.set_blocking(writing, True)
    with open(writing, "w") as stream:
        monkeypatch.setattr("sys.stderr", stream)
        started = time.monotonic()
        event("start", "listening")
        FailureCounter().report(raised("x" * 10_000), "serving")
        assert time.monotonic() - started < 10 * events.PATIENCE / 1000
    if not left:
        os.close(reading)
