"""The two results of a request: it reaches the upstream, or it is refused and nothing reaches the upstream."""

from collections.abc import Iterable

from tests.support.processes import Gateway
from tests.support.raw import Answer
from tests.support.recording import Received, RecordingUpstream
from tests.support.waiting import eventually

Codes = str | Iterable[str]


def _answer(gateway: Gateway, data: bytes) -> Answer:
    """The response. The database can be late on a busy machine, and a client then sends the request again."""

    def answered() -> Answer | None:
        answer = gateway.ask(data)
        return None if answer.status == 503 and answer.code == "storage_unavailable" else answer

    answer = eventually(answered)
    assert answer is not None
    return answer


def passes(gateway: Gateway, upstream: RecordingUpstream, data: bytes) -> Received:
    """The request reaches the upstream once, and its response is returned; returns the request as received."""
    upstream.requests.clear()
    answer = _answer(gateway, data)
    assert answer.status == 200, (data[:300], answer.status, answer.body)
    return upstream.only


def refuses(gateway: Gateway, upstream: RecordingUpstream, data: bytes, status: int, codes: Codes) -> Answer:
    """The gateway refuses with this status and (one of) these codes, and nothing reaches the upstream."""
    upstream.requests.clear()
    answer = gateway.ask(data) if status == 503 else _answer(gateway, data)
    expected = {codes} if isinstance(codes, str) else set(codes)
    assert answer.status == status, (data[:300], answer.status, answer.body)
    assert answer.code in expected, (data[:300], answer.code)
    assert upstream.requests == [], (data[:300], upstream.lines())
    return answer


def refuses_unparsed(gateway: Gateway, upstream: RecordingUpstream, data: bytes) -> Answer:
    """The HTTP parser refuses: 400 and the end of the connection, and nothing reaches the upstream.

    Under a stock ASGI server the response to a parser error is the server's own ("parser errors" in
    tests.support.faces).
    """
    upstream.requests.clear()
    with gateway.caller() as caller:
        answer = caller.send(data).receive(data.partition(b" ")[0].decode("latin-1"))
        assert answer.status == 400, (data[:300], answer.status, answer.body)
        if gateway.face == "serve":
            assert answer.code in {"bad_request", "bad_path", "bad_host"}, (data[:300], answer.code)
        caller.ended()
    assert upstream.requests == [], (data[:300], upstream.lines())
    return answer
