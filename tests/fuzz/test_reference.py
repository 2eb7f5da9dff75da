"""The reference readers agree with the tables of the conformance suite, whose outcomes are written by hand."""

import pytest

from tests.fuzz import reference, response_reference
from tests.fuzz.paths import canonical_path
from tests.fuzz.reference import Message
from tests.fuzz.requests import RequestCase
from tests.fuzz.response_reference import Asked
from tests.fuzz.responses import ResponseCase
from tests.fuzz.wire import Malformed
from tests.proxy.conformance import requests, responses
from tests.proxy.conformance.requests import PASSED, REFUSED, Passed, Refused
from tests.proxy.conformance.responses import BROKEN, INVALID, RETURNED, Broken, Invalid, Returned
from tests.support.wording import request

MORE = request("/public/more")


@pytest.mark.parametrize("case", REFUSED, ids=requests.named)
def test_requests_that_the_conformance_suite_refuses_end_the_connection(case: Refused) -> None:
    reading = reference.read(case.sent)
    if reading.end == "incomplete":  # and the gateway refuses it before its end
        assert not any(message.forwarded for message in reading.messages)
        return
    (message,) = reading.messages
    assert (message.forwarded, message.closes, reading.end) == (None, True, "closed")
    assert 400 in message.statuses


@pytest.mark.parametrize("case", PASSED, ids=requests.named)
def test_requests_that_the_conformance_suite_passes_are_forwarded_and_the_next_one_too(case: Passed) -> None:
    passed, *more = reference.read(case.sent + MORE).messages
    forwarded, arrival = passed.forwarded, case.arrival
    assert forwarded is not None
    assert (forwarded.line, forwarded.body, forwarded.framing) == (arrival.line, arrival.body, arrival.framing)
    for name, values in arrival.fields:
        expected = [value for value in values if value != b"1.1 gateway"]
        assert [value for given, value in forwarded.fields if given.lower() == name.encode().lower()] == expected
    if not passed.closes:
        assert [message.forwarded.line for message in more if message.forwarded] == [b"GET /public/more HTTP/1.1"]


@pytest.mark.parametrize("case", INVALID, ids=responses.named)
def test_responses_that_the_conformance_suite_calls_invalid_are_refused(case: Invalid) -> None:
    outcome = response_reference.read(case.sent, "keep", Asked())
    assert (outcome.given, outcome.begun, outcome.refused) == (None, None, True)


@pytest.mark.parametrize("case", BROKEN, ids=responses.named)
def test_responses_that_the_conformance_suite_calls_broken_are_never_whole(case: Broken) -> None:
    outcome = response_reference.read(case.sent, case.then, Asked())
    # The reference can allow both readings. The gateway has to be the stricter one.
    assert outcome.given is None or outcome.refused
    assert outcome.begun is not None


@pytest.mark.parametrize("case", RETURNED, ids=responses.named)
def test_responses_that_the_conformance_suite_returns_are_passed_on(case: Returned) -> None:
    method, _, rest = case.asked.partition(b" ")
    asked = Asked(method.decode(), 0 if b" HTTP/1.0\r\n" in rest else 1)
    outcome = response_reference.read(case.sent, case.then, asked)
    assert outcome.given is not None
    assert (outcome.given.status, outcome.given.body) == (case.outcome.status, case.outcome.body)
    assert set(case.outcome.interim) <= set(outcome.given.interim)


@pytest.mark.parametrize(
    ("framing", "good"),
    [
        (b"", True),
        (b"Content-Length: 0\r\n", True),
        (b"Content-Length: 2\r\n", False),
        (b"Content-Length: x\r\n", False),
        (b"Transfer-Encoding: chunked\r\n", False),
    ],
)
def test_an_interim_response_that_announces_a_body_is_refused(framing: bytes, good: bool) -> None:
    sent = b"HTTP/1.1 103 Early Hints\r\n" + framing + b"\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    outcome = response_reference.read(sent, "keep", Asked())
    assert (outcome.given is not None, outcome.refused) == (good, not good)


def statuses(data: bytes) -> list[list[int]]:
    """The allowed statuses of each message; 200 stands for the response of the upstream."""

    def of(message: Message) -> list[int]:
        return sorted({*message.statuses, *([200] if message.forwarded else [])})

    return [of(message) for message in reference.read(data).messages]


POSTED = request("/public/x", method="POST", fields=["Transfer-Encoding: chunked"])


@pytest.mark.parametrize(
    ("data", "expected", "end"),
    [
        (MORE * 3, [[200]] * 3, "open"),
        (MORE + MORE[:-1], [[200]], "incomplete"),
        (b"\r\n" + MORE + b"\r\n", [[200], [200]][:1], "open"),
        (request("/admin/x") + MORE, [[401], [200]], "open"),
        (request("/get/x", method="PUT", body=b"12345") + MORE, [[405], [200]], "open"),
        (request("/public/../admin/x") + MORE, [[400], [200]], "open"),
        (request("/public/x", fields=["Connection: close"]) + MORE, [[200]], "closed"),
        (request("/public/x", version="1.0") + MORE, [[200]], "closed"),
        (request("/public/x", version="1.0", fields=["Connection: keep-alive"]) + MORE, [[200], [200]], "open"),
        (request("/small/x", method="POST", body=b"x" * 65) + MORE, [[413], [200]], "open"),
        (POSTED + b"5\r\nhello\r\n0\r\n\r\n" + MORE, [[200], [200]], "open"),
        (POSTED + b"5\r\nhello\r\n0\r\n" + b"a:b\r\n" * 2000 + b"\r\n" + MORE, [[431], [200]], "open"),
        (POSTED + b"5;a= b\r\nhello\r\n0\r\n\r\n" + MORE, [[200, 400, 431], [200]], "open"),
        (POSTED + b"5\r\nhello!\r\n0\r\n\r\n" + MORE, [[400, 413, 431]], "closed"),
        (POSTED + b"5\r\nhel", [], "incomplete"),
        (request("/nowhere", fields=["Transfer-Encoding: chunked"]) + b"\n", [[400, 404, 413, 431]], "incomplete"),
        (request("/nowhere", fields=["Content-Length: 2"]) + b"\n", [[404]], "incomplete"),
        (request("/public/x", method="FOO") + MORE, [[501]], "closed"),
        (request("/public/x", fields=["X-A: " + "x" * 9000]) + MORE, [[431]], "closed"),
    ],
)
def test_a_connection_is_read_message_by_message(data: bytes, expected: list[list[int]], end: str) -> None:
    assert (statuses(data), reference.read(data).end) == (expected, end)


@pytest.mark.parametrize(
    ("raw", "canonical"),
    [
        (b"/a/b.c/...d/", b"/a/b.c/...d/"),
        (b"/%61%7E/%c3%a9", b"/a~/%C3%A9"),
        (b"/%25zz", b"/%25zz"),
        (b"/a%2fb", b"/a%2Fb"),
        (b"//a", None),
        (b"/a//b", None),
        (b"/a/../b", None),
        (b"/a/%2e%2E", None),
        (b"/a/.%20", None),
        (b"/a%2f..%2fb", None),
        (b"/a%2f/b", None),
        (b"/a%2f%2fb", None),
        (b"/%252e", None),
        (b"/%252%65", None),
        (b"/a;b", None),
        (b"/a%3fb", None),
        (b"/a%5cb", None),
        (b"/a%00", None),
        (b"/%ff", None),
        (b"/%2", None),
        (b"/\xc3\xa9", None),
    ],
)
def test_a_path_has_one_canonical_form_or_none(raw: bytes, canonical: bytes | None) -> None:
    try:
        assert canonical_path(raw) == canonical
    except Malformed:
        assert canonical is None


def test_a_case_has_smaller_cases_until_it_is_empty() -> None:
    smaller = next(RequestCase(b"GET / HTTP/1.1\r\n\r\n", (3, 5)).smaller())
    assert smaller == RequestCase(b"GET / HTTP/1.1\r\n\r\n")
    assert min(len(case.data) for case in smaller.smaller()) == 9
    assert all(case.sent for case in ResponseCase(b"xy").smaller())
