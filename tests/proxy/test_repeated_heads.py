"""A repeated header block on a connection is not parsed again; its meaning must not depend on that."""

import json
import random

import pytest

from tests.support.gateways import Gateways
from tests.support.processes import Engine, Face, Gateway
from tests.support.raw import NoAnswer
from tests.support.recording import RecordingUpstream
from tests.support.scripts import raw, response
from tests.support.waiting import eventually
from tests.support.wording import request


def test_the_same_fields_with_another_line_are_another_request(gateway: Gateway, upstream: RecordingUpstream) -> None:
    with gateway.caller() as caller:
        for number in range(4):
            caller.send(request(f"/public/{number}?q={number}", fields=["X-A: 1", "Accept: text/plain"]))
            assert caller.receive().status == 200
        caller.send(request("/nowhere", fields=["X-A: 1", "Accept: text/plain"]))
        assert caller.receive().status == 404
        caller.send(request("/public/%2e%2e/x", fields=["X-A: 1", "Accept: text/plain"]))
        assert caller.receive().refused() == (400, "bad_path")
        caller.send(request("/public/last", fields=["X-A: 1", "Accept: text/plain"]))
        assert caller.receive().status == 200
    assert [one.target for one in upstream.requests] == [
        *(f"/public/{number}?q={number}".encode() for number in range(4)),
        b"/public/last",
    ]
    assert all(one.values("x-a") == [b"1"] for one in upstream.requests)
    assert len({one.values("x-request-id")[0] for one in upstream.requests}) == 5


def test_every_repetition_is_decided_again(gateway: Gateway, upstream: RecordingUpstream) -> None:
    """CVE-2021-32701: results of one request must not allow another one."""
    account = gateway.newcomer()
    with gateway.caller() as caller:
        for path, status in (("/api/x", 200), ("/admin/x", 403), ("/api/y", 200), ("/public/x", 200)):
            caller.send(request(path, fields=[account.line]))
            assert caller.receive().status == status
        assert gateway.post("/auth/logout", b"", account.line).status == 204
        for path, status in (("/api/x", 401), ("/public/x", 200), ("/api/x", 401)):
            caller.send(request(path, fields=[account.line]))
            assert caller.receive().status == status


@pytest.mark.parametrize(
    "line", ["GET /public/x HTTP/1.0", "GET /public/x HTTP/2.0", "GET /public/x RTSP/1.0", "get /public/x HTTP/1.1"]
)
def test_the_request_line_is_judged_as_the_first_time(gateway: Gateway, line: str) -> None:
    block = "\r\nHost: gateway.test\r\nX-A: 1\r\n\r\n"
    first = gateway.ask((line + block).encode()).status
    with gateway.caller() as caller:
        caller.send(("GET /public/x HTTP/1.1" + block).encode())
        assert caller.receive().status == 200
        caller.send((line + block).encode())
        assert caller.receive().status == first


def test_a_body_after_a_repeated_block_is_still_a_body(gateway: Gateway, upstream: RecordingUpstream) -> None:
    with gateway.caller() as caller:
        for body in (b"one", b"two", b"six"):
            caller.send(request("/public/x", method="POST", fields=["Content-Length: 3"]) + body)
            assert caller.receive().status == 200
        caller.send(request("/public/x", fields=["Content-Length: 3"]))
        caller.send(b"end")
        assert caller.receive().status == 200
    assert [bytes(one.body) for one in upstream.requests] == [b"one", b"two", b"six", b"end"]


def test_pipelined_repetitions_are_answered_in_order(gateway: Gateway, upstream: RecordingUpstream) -> None:
    with gateway.caller() as caller:
        caller.send(b"".join(request(f"/public/{number}") for number in range(20)))
        assert [caller.receive().status for _ in range(20)] == [200] * 20
    assert [one.target for one in upstream.requests] == [f"/public/{number}".encode() for number in range(20)]


def test_a_response_head_that_comes_again_frames_its_own_body(gateway: Gateway, upstream: RecordingUpstream) -> None:
    head = response(200, ["Content-Type: text/plain", "Set-Cookie: a=1", "Content-Length: 5"], None)
    bodies = [b"first", b"again", b"third"]
    with gateway.caller() as caller:
        for body in bodies:
            upstream.on("/public/x", raw(head + body))
            caller.send(request("/public/x"))
            answer = caller.receive()
            assert (answer.body, answer.values("set-cookie")) == (body, [b"a=1"])
        caller.send(request("/public/x", method="HEAD"))
        upstream.on("/public/x", raw(head))
        assert caller.receive(method="HEAD").values("content-length") == [b"5"]
    with gateway.caller() as caller:
        for sent, body in ((b"right", b"right"), (b"toolong", b"toolo"), (b"after", b"after")):
            upstream.on("/public/x", raw(head + sent))
            caller.send(request("/public/x"))
            assert caller.receive().body == body


def test_a_repeated_head_in_pieces_is_read_to_its_end(gateway: Gateway, upstream: RecordingUpstream) -> None:
    head = response(200, ["Content-Type: text/plain", "Content-Length: 6"], None)
    with gateway.caller() as caller:
        for pieces in (
            [head + b"as one"],
            [head + b"as", b" two"],
            [head[:20], head[20:] + b"as 3rd"],
            [head, b"behind"],
        ):
            upstream.on("/public/x", raw(*pieces, pause=0.03))
            caller.send(request("/public/x"))
            answer = caller.receive()
            assert (answer.whole, len(answer.body)) == (True, 6)


def test_304_and_failures_are_not_taken_for_granted(gateway: Gateway, upstream: RecordingUpstream) -> None:
    with gateway.caller() as caller:
        for _ in range(3):
            upstream.on("/public/x", raw(response(304, ['ETag: "x"'], None)))
            caller.send(request("/public/x"))
            assert caller.receive().status == 304
            upstream.on("/public/x", raw(response(503, ["Content-Length: 2"], None) + b"no"))
            caller.send(request("/public/x"))
            assert caller.receive().status == 503


LINES = [
    "GET /public/y?a=%zz&b",
    "GET /public/%2e%2e/x",
    "GET /public//x",
    "GET /public/\xe9",
    'GET /public/"x"',
    "GET /public/x#y",
    "GET  /public/x",
    "GET http://gateway.test/public/x",
    "GET //evil.example/public/x",
    "GET *",
    "get /public/x",
    "FOO /public/x",
    "PROPFIND /public/x",
    "CONNECT gateway.test:80",
    "HEAD /public/x",
    "DELETE /methods/x",
    "POST /public/x",
    "OPTIONS /public/x",
    " GET /public/x",
    "GET /public/x X",
    "GET",
    "",
]


@pytest.mark.parametrize("line", LINES)
@pytest.mark.parametrize("version", ["1.1", "1.0", "2.0"])
def test_a_request_line_means_the_same_after_a_repeated_block(
    gateway: Gateway, upstream: RecordingUpstream, line: str, version: str
) -> None:
    """A different result for the repeated block would be a second interpretation of the same bytes."""
    block = b"\r\nHost: gateway.test\r\nX-A: 1\r\n\r\n"
    odd = line.encode("latin-1") + b" HTTP/" + version.encode() + block
    method = line.split(" ")[0] if line.startswith("HEAD") else "GET"

    def seen_by_upstream(*before: bytes) -> tuple[object, ...]:
        upstream.requests.clear()
        with gateway.caller() as caller:
            for data in before:
                assert caller.send(data).receive().status == 200
            try:
                answer = caller.send(odd).receive(method)
            except NoAnswer as none:
                return (none.ending,)
        arrived = [(received.line, received.values("x-a")) for received in upstream.requests[len(before) :]]
        return answer.status, answer.code, answer.head.has("connection"), arrived

    good = b"GET /public/x HTTP/1.1" + block
    assert seen_by_upstream(good, good) == seen_by_upstream()


ROUTES = ["/public/x", "/api/x", "/forwarded/x", "/optional/x", "/optional-forwarded/x", "/own-host/x", "/sockets/x"]
FIELDS: list[list[str]] = [
    [],
    ["Connection: keep-alive, X-A, Authorization, X-User-Id", "X-A: 1", "X-User-Id: root"],
    ["Connection: X-Forwarded-For, TE", "TE: trailers", "X-Forwarded-For: 192.0.2.1", "X-Forwarded-Uri: /public/x"],
    ["Sec-WebSocket-Protocol: bearer, secret", "Sec-WebSocket-Version: 13", "Upgrade: websocket", "Connection: close"],
    ["Sec-WebSocket-Protocol: bearer, secret", "Upgrade: websocket"],
    ["Expect: x", "Content-Length: 0", "Forwarded: for=1", "X_Forwarded_For: 1"],
]


@pytest.mark.parametrize("fields", FIELDS)
@pytest.mark.parametrize("trusts", [False, True])
def test_the_sent_request_is_that_of_its_route(
    gateway: Gateway, trusting: Gateway, upstream: RecordingUpstream, fields: list[str], trusts: bool
) -> None:
    """The cached parts of a repeated block were made for another route and must not appear in this request."""
    asked = trusting if trusts else gateway
    account = asked.newcomer()
    chance = random.Random(20261122)

    def exchanged(paths: list[str], *, anew: bool) -> list[object]:
        upstream.requests.clear()
        answers: list[object] = []
        caller = asked.caller()
        for path in paths:
            if anew:
                caller.close()
                caller = asked.caller()
            answer = caller.send(request(path, fields=[account.line, *fields])).receive()
            answers.append((answer.status, answer.code))
            if answer.head.has("connection"):
                caller.close()
                caller = asked.caller()
        caller.close()
        received = [
            (one.line, [field for field in one.fields if field[0].lower() != b"x-request-id"])
            for one in upstream.requests
        ]
        return [*answers, *received]

    paths = chance.choices(ROUTES, k=15)
    assert exchanged(paths, anew=False) == exchanged(paths, anew=True)


def test_each_request_of_a_connection_states_its_own_host(gateway: Gateway, upstream: RecordingUpstream) -> None:
    """The forwarding fields of the last Host of a connection are cached."""
    hosts = ["one.test", "two.test:81", "two.test:81", "two.test", "one.test"]
    with gateway.caller() as caller:
        for number, host in enumerate(hosts):
            caller.send(request(f"/public/{number}", host=host, fields=[f"X-Number: {number}"]))
            assert caller.receive().status == 200
        caller.send(request("/public/last", host=None, version="1.0"))
        assert caller.receive().status == 200
    sent = [(one.values("x-forwarded-host"), one.values("x-forwarded-port")) for one in upstream.requests]
    assert sent == [
        ([b"one.test"], [b"80"]),
        ([b"two.test:81"], [b"81"]),
        ([b"two.test:81"], [b"81"]),
        ([b"two.test"], [b"80"]),
        ([b"one.test"], [b"80"]),
        ([], [b"80"]),
    ]


def test_fields_with_the_same_names_keep_their_own_values(gateway: Gateway, upstream: RecordingUpstream) -> None:
    """The treatment of fields is cached by their names, which can contain any character of a token."""
    names = ["X-%b", "X%25", "Accept", "X-%s", "accept"]
    sent = [[f"{name}: {name}{turn}%b" for name in names] for turn in range(3)]
    with gateway.caller() as caller:
        for fields in (*sent, sent[0][::-1], sent[0][:2]):
            caller.send(request("/public/x", fields=["Connection: X%25, close-not", *fields]))
            assert caller.receive().status == 200
    for one, fields in zip(upstream.requests, (*sent, sent[0][::-1], sent[0][:2]), strict=True):
        kept = [field.lower().encode() for field in fields if not field.startswith("X%25")]
        lines = [(b"%b: %b" % field).lower() for field in one.fields]  # an ASGI server lower-cases the names
        assert [line for line in lines if line in kept] == kept
        assert not one.values("x%25")


def test_a_refused_path_is_logged_with_its_host_for_new_and_repeated_heads(
    gateways: Gateways, face: Face, engine: Engine
) -> None:
    gateway = gateways.gateway("replayed", face, engine, observability={"access_log": "json"})
    paths = ["/public/../new", "/public/logged", "/public/../repeated"]
    with gateway.caller() as caller:
        for path in paths:
            caller.send(request(path, host="Logged.test:81")).receive()

    def logged() -> list[tuple[str, str]]:
        lines = [json.loads(line) for line in gateway.log().splitlines() if line.startswith("{")]
        found = [(line["path"], line["host"]) for line in lines if line["path"] in paths]
        return found if len(found) == len(paths) else []

    assert eventually(logged) == [(path, "logged.test") for path in paths]
