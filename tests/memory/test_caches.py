"""A cache that strangers can fill stays within its limit in docs/security.md, for any size and number of keys."""

import gc
import re
from collections.abc import Callable, Iterable
from ipaddress import ip_network
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from gateway.accounts.failed_attempts import Allowance, Counter, FailedAttempts
from gateway.errors import Refusal
from gateway.gate.admission import Admission, Peers, RequestHead
from gateway.gate.leaky_buckets import Buckets, Quota
from gateway.observability.access_log import Texts, json_client
from gateway.observability.events import RateLimitedLog
from gateway.observability.observer import Observer
from gateway.policy.route import Route
from gateway.proxy.forward import ForwardPlan, upstream_request
from gateway.proxy.response_head import SHAPES, STATUS_LINES, ResponseHead
from gateway.settings.model import ObservabilitySettings
from gateway.wire.addresses import Callers, Networks, TrustedProxies
from gateway.wire.fields import FieldRules, RequestFields
from gateway.wire.forwarded import client_address
from gateway.wire.head_template import KNOWN_HEADS
from gateway.wire.hosts import canonical_host
from gateway.wire.paths import canonical_target
from gateway.wire.problem import OPENINGS, problem_body
from tests.support.memory import size_of

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "security.md"
MIB = 1024 * 1024
HUGE = b"h" * 100_000


def request_names() -> object:
    rules = FieldRules()
    for number in range(8192):
        rules.action(b"%064d" % number)
    for number in range(200):
        rules.action(HUGE + b"%d" % number)
    return rules


def heads() -> Iterable[tuple[bytes, ...]]:
    """Return heads with different names: twice as many as are remembered, and some that are too large for it."""
    for number in range(2 * KNOWN_HEADS):
        yield tuple([b"x-%08d-%05d" % (number, index) for index in range(32)])
    for count, length in ((33, 8), (500, 4), (2, 300), (2, len(HUGE))):
        for number in range(20):
            yield tuple([b"%0*d" % (length, 500 * number + index) for index in range(count)])


def request_heads() -> object:
    rules = FieldRules()
    for names in heads():
        shape = rules.shape(names)
        rules.classify(shape, (b"v",) * len(names))
        for _ in range(100):  # A common shape gets an expression.
            rules.count_head(shape)
    return rules


def response_heads() -> object:
    SHAPES.clear()
    for names in heads():
        ResponseHead(b"HTTP/1.1 200 OK\r\n" + b"".join([b"%b: 1\r\n" % name for name in names]) + b"\r\n")
    return SHAPES


def status_lines() -> object:
    STATUS_LINES.clear()
    for number in range(2048):
        ResponseHead(b"HTTP/1.1 200 %d%b\r\n\r\n" % (number, HUGE[:100]))
    for number in range(100):
        ResponseHead(b"HTTP/1.1 200 %d%b\r\n\r\n" % (number, HUGE))
    return STATUS_LINES


def error_documents() -> object:
    for number in range(2048):
        problem_body(Refusal("bad_request", detail=f"{number:0200d}"), b"1")
    for number in range(100):
        problem_body(Refusal("bad_request", detail=f"{number}{HUGE.decode()}"), b"1")
    return OPENINGS


def hosts() -> object:
    for number in range(8192):
        canonical_host(b"h%07d.%bexample:65535" % (number, b"a." * 116))
    return canonical_host


def peers() -> object:
    known = Peers(TrustedProxies([]))
    for address in addresses(2048):
        known.of(address, "https")
    for number in range(200):
        known.of(f"{number}{HUGE.decode()}", "https")
        known.of("127.0.0.1", f"{number}{HUGE.decode()}")
    return known


def networks() -> object:
    known = Networks([ip_network("10.0.0.0/8")])
    for address in addresses(12_288):
        known.contains(address)
    for number in range(50):
        known.contains(f"{number}{HUGE.decode()}")
    return known


def forwarded() -> object:
    proxies = TrustedProxies([ip_network("127.0.0.0/8")])
    for number, address in enumerate(addresses(6144)):
        client_address("127.0.0.1", b"1" * 200 + b",%b" % address.encode(), proxies)
        if number < 50:
            client_address("127.0.0.1", HUGE + b", fe80::%x%%%b" % (number, HUGE), proxies)
    return proxies


def counted_addresses() -> object:
    callers = Callers()
    for address in addresses(12_288):
        callers.by_address(address)
    for number in range(50):
        callers.by_address(f"{number}{HUGE.decode()}")
    return callers


def rate_limits() -> object:
    buckets = Buckets(Quota(10, 3600.0), 100_000)
    for number, address in enumerate(addresses(150_000)):
        buckets.take(address, number / 1000)
    return buckets


def failures() -> object:
    counts, allowance = FailedAttempts(lifetime=3600.0), Allowance(5, 900.0, 900.0)
    for number in range(132_000):
        owner = f"{number:034x}"
        counts.failed(Counter(owner, f"{owner}:{owner}", allowance), number / 1000)
    return counts


def log_texts() -> object:
    texts = Texts(json_client)
    for address in addresses(2048):
        texts[address]
    for number in range(50):
        texts[f"{number}{HUGE.decode()}"]
    return texts


def failure_reports() -> object:
    repeats = RateLimitedLog()
    for number in range(1000):
        repeats.admit(f"{number}{HUGE.decode()}")
    return repeats


def series() -> object:
    routes = [f"a-route-with-a-long-name-{number}" for number in range(7)]
    observer = Observer(ObservabilitySettings(access_log="json"), routes, write=lambda block: None, coloured=False)
    for route in routes:
        for method in (b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS"):
            for status in range(100, 600):
                observer.completed(finished(route, method, status))
    return observer


def finished(route: str, method: bytes, status: int) -> Any:
    fields = SimpleNamespace(request_id=None, canonical_host=b"gateway.test")
    request = SimpleNamespace(
        method=method, target=b"/x", client="127.0.0.1", fields=fields, request_id=b"1", trace=None
    )
    times = {"started": 0.0, "forwarded_at": 0.0, "answered_at": 0.0, "received": 0, "sent": 0}
    return SimpleNamespace(
        request=request,
        admission=None,
        refused=None,
        refused_credential=None,
        route=route,
        status=status,
        code="",
        **times,
    )


def addresses(count: int) -> Iterable[str]:
    """Return long addresses, each in a different network."""
    return (f"2001:db8:{number >> 16:x}:{number & 0xFFFF:x}:ffff:ffff:ffff:ffff" for number in range(count))


FILLED: dict[str, Callable[[], object]] = {
    "field names of requests": request_names,
    "names of request heads": request_heads,
    "names of response heads": response_heads,
    "status lines": status_lines,
    "beginnings of error documents": error_documents,
    "hosts": hosts,
    "peers of the ASGI face": peers,
    "addresses, by network": networks,
    "clients behind trusted proxies": forwarded,
    "addresses, by counted identity": counted_addresses,
    "rate limits": rate_limits,
    "failed attempts": failures,
    "texts of the access log": log_texts,
    "reported failures": failure_reports,
    "series of the metrics": series,
}


def documented(cache: str) -> int:
    """Return the limit of a cache in MiB, from the last column of its row."""
    row = re.search(rf"^\| {re.escape(cache)} \|.*\| (\d+) MiB \|$", DOCUMENT.read_text(), re.MULTILINE)
    assert row is not None, f"docs/security.md has no row for {cache!r}"
    return int(row[1])


@pytest.mark.parametrize("cache", FILLED)
def test_a_cache_stays_below_the_documented_size(cache: str) -> None:
    held = size_of(FILLED[cache]()) / MIB
    print(f"\n{cache}: {held:.2f} MiB")
    assert held <= documented(cache)


@pytest.mark.parametrize("credentials", [False, True])
@pytest.mark.parametrize("field", [(b"X-" + b"n" * MIB, b"v"), (b"X-A", b"v" * MIB)])
def test_a_forwarded_request_keeps_its_large_head_once(field: tuple[bytes, bytes], credentials: bool) -> None:
    """A second copy would only serve a repeated head, and heads of this size are not cached."""
    rules, route = (
        FieldRules(),
        cast("Route", SimpleNamespace(passes_credentials=credentials, rewrite=None, pattern="/x")),
    )
    fields = rules.sort([(b"Host", b"gateway.test"), field])
    peer = Peers(TrustedProxies([])).of("127.0.0.1", "http")
    request = RequestHead(b"GET", b"/x", fields, peer, minor=1, made_id=b"1")
    plan = ForwardPlan(route, max_body=0, response_timeout=None, preserve_host=False)
    admission = Admission(route, (), canonical_target(b"/x", relaxed=False), None, None, request)
    assert upstream_request(admission, plan, rules, 0).fields.startswith(b"%b: %b\r\n" % field)
    assert size_of(request) < 1.1 * MIB


def of_size(size: int) -> list[tuple[bytes, bytes]]:
    """Return the fields of a head that a connection remembers."""
    names = [b"X-%06d-%05d" % (size, index) for index in range(30)]
    return [(b"Host", b"gateway.test"), (b"Authorization", b"Basic x"), *((name, b"v" * size) for name in names)]


def forwarded_lines(fields: RequestFields, *, credentials: bool) -> bytes:
    """Return the fields that a route with or without credentials forwards."""
    route = cast("Route", SimpleNamespace(passes_credentials=credentials, rewrite=None, pattern="/x"))
    peer = Peers(TrustedProxies([])).of("127.0.0.1", "http")
    request = RequestHead(b"GET", b"/x", fields, peer, minor=1, made_id=b"1")
    plan = ForwardPlan(route, max_body=0, response_timeout=None, preserve_host=False)
    admission = Admission(route, (), canonical_target(b"/x", relaxed=False), None, None, request)
    return upstream_request(admission, plan, FieldRules(), 0).fields


def test_a_remembered_head_is_serialized_for_one_kind_of_route_at_a_time() -> None:
    """An idle connection would keep both copies."""
    fields = FieldRules().sort(of_size(40))
    without = forwarded_lines(fields, credentials=False)
    once = size_of(fields)
    together = forwarded_lines(fields, credentials=True)
    assert size_of(fields) < once + 200
    assert b"Authorization: Basic x\r\n" in together
    assert b"Authorization" not in without
    assert forwarded_lines(fields, credentials=False) == without


def test_the_list_of_forwarded_fields_is_not_kept_with_a_head() -> None:
    fields = FieldRules().sort(of_size(40))
    before = size_of(fields)
    assert len(fields.kept) == 31 - 1
    assert size_of(fields) == before


def test_no_expression_of_a_forgotten_head_remains() -> None:
    """Ten thousand idle connections can keep the names of as many heads. The expression of one takes 10 KiB."""
    rules, kept = FieldRules(), []
    for number in range(KNOWN_HEADS + 1):
        shape = rules.shape(tuple([b"forgotten%02d%05d" % (index, number) for index in range(32)]))
        if number % 64 == 0:
            for _ in range(64):  # A common shape gets an expression.
                rules.count_head(shape)
            kept.append(shape)
        if number == KNOWN_HEADS - 1:
            assert [shape.needs_no_parser for shape in kept] == [True] * 16
            assert expressions_about(b"forgotten") == 16
    assert [shape.needs_no_parser for shape in kept] == [*[False] * 16, True]
    assert expressions_about(b"forgotten") == 1


def expressions_about(text: bytes) -> int:
    """Return the number of compiled regular expressions in the process that contain the text."""
    found = [each.pattern for each in gc.get_objects() if isinstance(each, re.Pattern)]
    return sum(isinstance(pattern, bytes) and text in pattern for pattern in found)
