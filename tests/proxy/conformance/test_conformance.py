"""Conformance with RFC 9110 and 9112 for intermediaries: the tables, case by case, over sockets."""

from pathlib import Path

import pytest

from tests.proxy.conformance import requests, responses
from tests.proxy.conformance.listing import page
from tests.proxy.conformance.requests import PASSED, Passed
from tests.proxy.conformance.responses import RETURNED, Outcome, Returned
from tests.support.engines import lacks
from tests.support.faces import stock
from tests.support.processes import Gateway
from tests.support.raw import Answer
from tests.support.recording import RecordingUpstream
from tests.support.scripts import raw
from tests.support.waiting import eventually
from tests.support.wording import request

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("case", PASSED, ids=requests.named)
def test_a_request_reaches_the_upstream_once_and_as_it_should(
    gateway: Gateway, upstream: RecordingUpstream, case: Passed
) -> None:
    with gateway.caller() as caller:
        caller.send(case.sent)
        assert caller.receive().status == 200
    received, arrival = upstream.only, case.arrival
    eventually(lambda: received.whole)
    assert (received.framing, bytes(received.body)) == (arrival.framing, arrival.body)
    if case.unlike is not None and stock(gateway.face, case.unlike):
        return
    assert received.line == arrival.line
    for field, values in arrival.fields:
        assert received.values(field) == list(values), field


@pytest.mark.every_variant
@pytest.mark.parametrize("case", RETURNED, ids=responses.named)
def test_a_response_reaches_the_caller_as_it_should(
    gateway: Gateway, upstream: RecordingUpstream, case: Returned
) -> None:
    upstream.on("/public/x", raw(case.sent, then=case.then))
    method = case.asked.partition(b" ")[0].decode()
    with gateway.caller() as caller:
        answer = caller.send(case.asked).receive(method)
        if b"HTTP/1.0" not in case.asked:  # the connection continues, without leftover bytes
            assert caller.send(request("/public/y")).receive().body == b"upstream"
    assert (answer.status, answer.body, answer.whole) == (case.outcome.status, case.outcome.body, True)
    if not (case.unlike is not None and stock(gateway.face, case.unlike)):
        check(answer, case.outcome, trailers=not lacks(gateway.engine, "trailers"))


def check(answer: Answer, outcome: Outcome, *, trailers: bool) -> None:
    assert answer.framing == outcome.framing
    assert tuple(head.status for head in answer.interim) == outcome.interim
    for field, values in outcome.fields:
        assert answer.values(field) == list(values), field
    if trailers:
        assert tuple((key.lower(), value) for key, value in answer.trailers) == outcome.trailers


def test_the_page_lists_the_cases_there_are() -> None:
    assert (ROOT / "docs/conformance.md").read_text("utf-8") == page(), (
        "python -m tests.proxy.conformance.listing > docs/conformance.md"
    )
