"""Pipelined requests under real ASGI servers: a client attributes each response to its own request."""

import asyncio
from collections.abc import Iterator

import pytest

from tests.server.asgi.servers import SERVERS, ServedApplication, installed
from tests.support.raw import NoAnswer
from tests.support.recording import Exchange, RecordingUpstream
from tests.support.small import small
from tests.support.waiting import eventually
from tests.support.websockets import handshake
from tests.support.wording import request

BODY = b"a body that is longer than the head of a short response, " * 9
STATED = b"HTTP/1.1 200 OK\r\nX-Upstream: 1\r\nContent-Length: %d\r\n\r\n" % len(BODY)
EVENTS = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n"


@pytest.fixture(scope="module")
def slow() -> Iterator[RecordingUpstream]:
    upstream = RecordingUpstream()
    yield upstream
    upstream.stop()


@pytest.fixture(scope="module", params=["uvicorn with httptools", "uvicorn, mounted", "uvicorn with h11", "hypercorn"])
def server(
    request: pytest.FixtureRequest, slow: RecordingUpstream, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServedApplication]:
    if not installed(request.param):
        pytest.skip(f"{SERVERS[request.param][0]} is not installed")
    folder = tmp_path_factory.mktemp("served")
    configuration = small(folder, {"web": slow.url}, server={"max_header_size": 8192})
    served = ServedApplication(request.param, configuration, folder)
    served.start()
    yield served
    served.stop()


# Bytes behind a request whose response is due. uvicorn answers them at once.
BEHIND = {
    "a handshake": handshake("/nowhere"),
    "a malformed head": b"\x00 no request\r\n\r\n",
    "a head without end": b"GET /nowhere HTTP/1.1\r\nX-Large: " + b"x" * 60_000,
    "a malformed head behind a request": request("/nowhere") + b"\x00 no request\r\n\r\n",
}


@pytest.mark.parametrize("sent", [0, len(STATED) + 3], ids=["nothing sent", "a part sent"])
@pytest.mark.parametrize("behind", BEHIND.values(), ids=BEHIND)
def test_bytes_behind_a_request_are_not_answered_before_it(
    server: ServedApplication, slow: RecordingUpstream, behind: bytes, sent: int
) -> None:
    released, response = asyncio.Event(), STATED + BODY

    async def in_two_parts(exchange: Exchange) -> None:
        await exchange.send(response[:sent])
        await released.wait()
        await exchange.send(response[sent:])

    slow.forget()
    slow.on("/web/due", in_two_parts)
    with server.caller() as caller:
        caller.send(request("/web/due"))
        slow.arrived()
        if sent:
            caller.read_until(b"\r\n\r\n")
            assert caller.read(3) == BODY[:3]
        caller.send_until_refused([behind])
        assert server.get("/nowhere").status == 404  # The server has read the bytes before this request.
        slow.call_soon(released.set)
        if sent:
            rest = caller.read(len(BODY) - 3)
            assert rest == BODY[3 : 3 + len(rest)]
            return
        try:
            got = caller.receive()
        except NoAnswer as ended:
            assert ended.got == b""
        else:
            assert (got.status, got.value("x-upstream"), got.whole) == (200, b"1", True)
            assert got.body == BODY


@pytest.mark.parametrize("server", ["uvicorn with httptools", "uvicorn, mounted"], indirect=True)
def test_many_requests_behind_one_are_served_and_too_many_are_not_held(
    server: ServedApplication, slow: RecordingUpstream
) -> None:
    released = asyncio.Event()

    async def late(exchange: Exchange) -> None:
        await released.wait()
        await exchange.send(STATED + BODY)

    slow.forget()
    slow.on("/web/late", late)
    with server.caller() as patient, server.caller() as flooding:
        patient.send(request("/web/late") + request("/nowhere") * 100)
        flooding.send_until_refused([request("/web/late") + request("/nowhere") * 10_000])
        assert flooding.ended()[1] == b""
        slow.arrived()
        slow.call_soon(released.set)
        assert patient.receive().body == BODY
        assert {patient.receive().status for _ in range(100)} == {404}


# hypercorn reads nothing, so also no end of the connection, until the first response has ended.
@pytest.mark.parametrize("server", ["uvicorn with httptools", "uvicorn, mounted", "uvicorn with h11"], indirect=True)
@pytest.mark.parametrize("count", [1, 5])
def test_a_client_that_leaves_ends_a_response_before_pipelined_requests(
    server: ServedApplication, slow: RecordingUpstream, count: int
) -> None:
    async def events(exchange: Exchange) -> None:
        await exchange.send(EVENTS)
        await exchange.left()

    slow.forget()
    slow.on("/web/events", events)
    with server.caller() as caller:
        caller.send(request("/web/events") + request("/web/x") * count)
        link = slow.arrived().link
        caller.read_until(b"data: 1")
    eventually(lambda: link.ended)
