"""TRACE and Max-Forwards: requests that return their own head, and the end of their path.

RFC 9110 7.6.2 and 9.3.8.
"""

import pytest

from tests.support.expectations import passes, refuses
from tests.support.gateways import Gateways
from tests.support.processes import Account, Face, Gateway
from tests.support.raw import Answer
from tests.support.recording import RecordingUpstream
from tests.support.wording import chunked, request

VERIFY = "/_gateway/verify"


@pytest.fixture
def line(gateway: Gateway) -> bytes:
    return gateway.login("user@example.com").line


# ---- TRACE is served if a route lists it


@pytest.mark.parametrize("path", ["/public/x", "/api/x", "/admin/x", "/optional/x", "/stripped/x", "/methods/y"])
def test_a_route_without_methods_does_not_serve_trace(
    gateway: Gateway, upstream: RecordingUpstream, line: bytes, path: str
) -> None:
    for fields in ([], [line]):
        answer = refuses(gateway, upstream, request(path, method="TRACE", fields=fields), 405, "method_not_allowed")
        allowed = (answer.value("allow") or b"").split(b", ")
        assert b"GET" in allowed
        assert b"TRACE" not in allowed


def test_a_route_with_other_methods_does_not_serve_trace(gateway: Gateway, upstream: RecordingUpstream) -> None:
    answer = refuses(gateway, upstream, request("/methods/x", method="TRACE"), 405, "method_not_allowed")
    assert answer.value("allow") == b"GET, HEAD, POST, PUT"


def test_a_route_that_lists_trace_decides_on_it_as_on_any_method(
    gateway: Gateway, upstream: RecordingUpstream, line: bytes
) -> None:
    refuses(gateway, upstream, request("/traced/x", method="TRACE"), 401, "token_missing")
    received = passes(gateway, upstream, request("/traced/x", method="TRACE", fields=[line]))
    assert received.line == b"TRACE /traced/x HTTP/1.1"


@pytest.mark.parametrize("path", ["/auth/me", "/_gateway/health", "/.well-known/jwks.json"])
def test_an_endpoint_of_the_gateway_does_not_serve_trace(gateway: Gateway, line: bytes, path: str) -> None:
    assert gateway.ask(request(path, method="TRACE", fields=[line])).refused() == (405, "method_not_allowed")


def test_a_trace_with_a_body_is_refused(gateway: Gateway, upstream: RecordingUpstream, line: bytes) -> None:
    data = request("/traced/x", method="TRACE", fields=[line], body=b"body")
    refuses(gateway, upstream, data, 400, "bad_request")
    head = request("/traced/x", method="TRACE", fields=[line, "Transfer-Encoding: chunked"])
    refuses(gateway, upstream, head + chunked(b"body"), 400, "bad_request")
    passes(gateway, upstream, request("/traced/x", method="TRACE", fields=[line], body=b""))


@pytest.mark.parametrize(
    ("target", "method", "expected"),
    [
        ("/public/x", "TRACE", (405, "method_not_allowed")),
        ("/api/x", "TRACE", (405, "method_not_allowed")),
        ("/methods/x", "TRACE", (405, "method_not_allowed")),
        ("/traced/x", "TRACE", (200, None)),
        ("/traced/x", "OPTIONS", (200, None)),
        ("/traced/x", "PUT", (405, "method_not_allowed")),
    ],
)
def test_forward_authorization_agrees(
    trusting: Gateway, target: str, method: str, expected: tuple[int, str | None]
) -> None:
    """The method of the verify request makes no difference: Envoy's ext_authz uses that of the original request."""
    line = trusting.login("user@example.com").line
    for by in ("GET", method):
        asked: list[str | bytes] = [f"X-Forwarded-Method: {method}", f"X-Forwarded-Uri: {target}", line]
        assert trusting.ask(request(VERIFY, method=by, fields=asked)).refused() == expected


def test_forward_authorization_allows_a_trace_that_the_proxy_in_front_would_end(trusting: Gateway) -> None:
    """Max-Forwards concerns the client and the forwarding proxy; a verify request is only about the decision."""
    line = trusting.login("user@example.com").line
    asked: list[str | bytes] = ["X-Forwarded-Method: TRACE", "X-Forwarded-Uri: /traced/x", "Max-Forwards: 0", line]
    answer = trusting.ask(request(VERIFY, fields=asked))
    assert answer.status == 200
    assert answer.value("x-gateway-path") == b"/traced/x"


# ---- Max-Forwards


@pytest.mark.parametrize("method", ["OPTIONS", "TRACE"])
@pytest.mark.parametrize(
    ("value", "sent"),
    [("1", b"0"), ("2", b"1"), ("10", b"9"), ("007", b"6"), ("1000", b"999"), ("9" * 40, b"999999998")],
)
def test_max_forwards_is_counted_down(
    gateway: Gateway, upstream: RecordingUpstream, line: bytes, method: str, value: str, sent: bytes
) -> None:
    data = request("/traced/x", method=method, fields=["A: 1", f"Max-Forwards: {value}", "B: 2", line])
    received = passes(gateway, upstream, data)
    assert received.values("max-forwards") == [sent]
    names = [name.lower() for name, _ in received.fields]
    assert names.index(b"a") < names.index(b"max-forwards") < names.index(b"b")


@pytest.mark.parametrize("value", ["0", "00", " 0 "])
def test_at_zero_options_is_answered_here(
    gateway: Gateway, upstream: RecordingUpstream, line: bytes, value: str
) -> None:
    data = request("/traced/x", method="OPTIONS", fields=[f"Max-Forwards:{value}", line])
    answer = ended_here(gateway, upstream, data)
    assert answer.value("allow") == b"GET, HEAD, OPTIONS, TRACE"
    assert answer.value("content-length") == b"0"
    everywhere = ended_here(gateway, upstream, request("/public/x", method="OPTIONS", fields=["Max-Forwards: 0"]))
    assert everywhere.value("allow") == b"DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT"


def test_at_zero_trace_is_answered_here_without_anything_secret(
    gateway: Gateway, upstream: RecordingUpstream, line: bytes
) -> None:
    secrets = ["Cookie: session=secret", "Proxy-Authorization: Basic secret", "X-Api-Key: secret",
               "X-User-Id: secret", "X-Identity-Token: secret", "X-Forwarded-For: secret"]  # fmt: skip
    fields: list[str | bytes] = ["Via: 1.0 earlier", *secrets, "Max-Forwards: 0", line]
    answer = ended_here(gateway, upstream, request("/traced/x?y=1", method="TRACE", fields=fields))
    assert answer.value("content-type") == b"message/http"
    line_, *shown = answer.body.split(b"\r\n")
    assert line_ == b"TRACE /traced/x?y=1 HTTP/1.1"
    assert [field.lower() for field in shown] == [
        b"host: gateway.test",
        b"via: 1.0 earlier",
        b"max-forwards: 0",
        b"",
        b"",
    ]
    assert gateway.login("user@example.com").id.encode() not in answer.body


def test_at_zero_only_an_admitted_request_is_answered(gateway: Gateway, upstream: RecordingUpstream) -> None:
    for method in ("OPTIONS", "TRACE"):
        data = request("/traced/x", method=method, fields=["Max-Forwards: 0"])
        refuses(gateway, upstream, data, 401, "token_missing")
    data = request("/public/x", method="TRACE", fields=["Max-Forwards: 0"])
    refuses(gateway, upstream, data, 405, "method_not_allowed")


def test_at_zero_a_body_is_read_over(gateway: Gateway, upstream: RecordingUpstream) -> None:
    with gateway.caller() as caller:
        data = request("/public/x", method="OPTIONS", fields=["Max-Forwards: 0"], body=b"x" * 1000)
        assert caller.send(data).receive().status == 200
        assert caller.send(request("/public/x")).receive().status == 200
    assert [each.method for each in upstream.requests] == [b"GET"]


@pytest.mark.parametrize("method", ["OPTIONS", "TRACE"])
@pytest.mark.parametrize(
    "lines",
    [["Max-Forwards:"], ["Max-Forwards: -1"], ["Max-Forwards: +1"], ["Max-Forwards: 1.0"], ["Max-Forwards: 0x1"],
     ["Max-Forwards: 1 2"], ["Max-Forwards: 0, 5"], ["Max-Forwards: \xb2"], ["Max-Forwards: 1", "Max-Forwards: 1"],
     ["Max-Forwards: 5", "max-forwards: 0"]],
)  # fmt: skip
def test_a_value_that_is_not_one_number_is_refused(
    gateway: Gateway, upstream: RecordingUpstream, line: bytes, method: str, lines: list[str]
) -> None:
    refuses(gateway, upstream, request("/traced/x", method=method, fields=[*lines, line]), 400, "bad_request")


@pytest.mark.parametrize("value", ["0", "5", "many"])
def test_other_methods_ignore_max_forwards(gateway: Gateway, upstream: RecordingUpstream, value: str) -> None:
    for method in ("GET", "POST", "DELETE", "PROPFIND"):
        received = passes(gateway, upstream, request("/public/x", method=method, fields=[f"Max-Forwards: {value}"]))
        assert received.values("max-forwards") == [value.encode()]


@pytest.mark.parametrize("spelling", ["Max_Forwards", "Max.Forwards", "Max!Forwards"])
def test_no_other_spelling_of_max_forwards_goes_on(
    gateway: Gateway, upstream: RecordingUpstream, spelling: str
) -> None:
    fields = [f"{spelling}: 7", "Max-Forwards: 3"]
    received = passes(gateway, upstream, request("/public/x", method="OPTIONS", fields=fields))
    assert received.seen_as("max-forwards") == [b"2"]


def test_connection_cannot_take_the_count_away(gateway: Gateway, upstream: RecordingUpstream) -> None:
    fields = ["Connection: Max-Forwards", "Max-Forwards: 3"]
    assert passes(gateway, upstream, request("/public/x", method="OPTIONS", fields=fields)).values("max-forwards") == [
        b"2"
    ]


def test_a_header_block_that_comes_again_is_counted_again(gateway: Gateway, upstream: RecordingUpstream) -> None:
    with gateway.caller() as caller:
        for method in ("GET", "OPTIONS", "GET", "OPTIONS"):
            data = request("/public/x", method=method, fields=["Max-Forwards: 3"])
            assert caller.send(data).receive().status == 200
    assert [each.values("max-forwards") for each in upstream.requests] == [[b"3"], [b"2"]] * 2


def ended_here(gateway: Gateway, upstream: RecordingUpstream, data: bytes) -> Answer:
    """The gateway's own response; the request reached no upstream."""
    upstream.requests.clear()
    answer = gateway.ask(data)
    assert answer.status == 200, (answer.status, answer.body)
    assert answer.whole
    assert answer.values("cache-control") == [b"no-store"]
    assert len(answer.values("date")) == 1
    assert upstream.requests == []
    return answer


# ---- the fields of a TRACE


def test_a_trace_carries_no_proof_of_identity(gateways: Gateways, face: Face, upstream: RecordingUpstream) -> None:
    """Its response shows the request to the client, which could present the assertion to the upstream elsewhere."""
    gateway = gateways.gateway("proving", face, identity={"assertion": {"header": "X-Identity-Token", "ttl": "60s"}})
    line = gateway.login("user@example.com").line
    for method, present in (("GET", True), ("OPTIONS", True), ("TRACE", False)):
        received = passes(gateway, upstream, request("/traced/x", method=method, fields=[line, "X!Identity|Token: x"]))
        assert bool(received.seen_as("x-identity-token")) is present, method
        assert received.seen_as("x-identity-token") != [b"x"]
        assert received.seen_as("authorization") == []


def test_a_route_for_trace_stands_beside_one_for_all_other_methods(
    gateways: Gateways, face: Face, upstream: RecordingUpstream
) -> None:
    routes: list[dict[str, object]] = [
        {"path": "/beside/**", "auth": "none", "upstream": "web"},
        {"path": "/beside/**", "methods": ["TRACE"], "roles": ["admin"], "upstream": "web"},
    ]
    gateway = gateways.gateway("tracing-beside", face, routes=routes)
    passes(gateway, upstream, request("/beside/x"))
    refuses(gateway, upstream, request("/beside/x", method="TRACE"), 401, "token_missing")
    admin: Account = gateway.login("admin@example.com")
    passes(gateway, upstream, request("/beside/x", method="TRACE", fields=[admin.line]))
