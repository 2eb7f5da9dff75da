"""Rate limits over sockets, with both servers."""

import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import pytest
import yaml

from bench.stores.valkey import ValkeyServer, running
from tests.support.configurations import changed
from tests.support.gateways import Gateways
from tests.support.processes import FACES, Account, Face, Gateway
from tests.support.raw import Answer, Caller
from tests.support.recording import RecordingUpstream
from tests.support.scale import WHOLE
from tests.support.scripts import answer
from tests.support.waiting import eventually, promised
from tests.support.wording import request

HOURLY: dict[str, object] = {"requests": 4, "per": "1h"}
ROUTES: list[dict[str, object]] = [
    {"path": "/counted/user/{id}", "rate_limit": HOURLY},
    {"path": "/counted/admin/{id}", "roles": ["admin"], "rate_limit": HOURLY},
    {"path": "/counted/optional/{id}", "auth": "optional", "rate_limit": HOURLY},
    {"path": "/counted/address/**", "auth": "none", "rate_limit": HOURLY | {"by": "address"}},
    {"path": "/counted/signed-in/**", "rate_limit": HOURLY | {"by": "address"}},
    {"path": "/counted/quick/{id}", "rate_limit": {"requests": 3, "per": "1s"}},
    {"path": "/counted/small/{id}", "max_body": "1KiB", "rate_limit": HOURLY},
    {"path": "/counted/dead/{id}", "upstream": "refusing", "rate_limit": HOURLY},
    {"path": "/counted/many/**", "auth": "none", "rate_limit": {"requests": 1, "per": "1h", "by": "address"}},
    {"path": "/counted/often/{id}", "rate_limit": {"requests": 20, "per": "1s"}},
]
_sources = count(2)


def routes() -> list[dict[str, object]]:
    return [{"upstream": "web"} | route for route in ROUTES]


@pytest.fixture
def gateway(gateways: Gateways, face: Face) -> Gateway:
    return gateways.gateway("counted", face, routes=routes())


@pytest.fixture
def behind_proxy(gateways: Gateways, face: Face) -> Gateway:
    """A gateway that trusts only 127.0.0.1."""
    return gateways.gateway("counted-behind-proxy", face, routes=routes(), server={"trusted_proxies": ["127.0.0.1/32"]})


@pytest.fixture
def source() -> str:
    """An address of this machine that no test has used."""
    number = next(_sources)
    return f"127.9.{number >> 8}.{number & 255}"


def ask_from(gateway: Gateway, source: str, data: bytes) -> Answer:
    with Caller(gateway.address, source=source) as caller:
        return caller.send(data).receive()


def statuses(gateway: Gateway, path: str, user: Account, times: int) -> list[int]:
    return [gateway.get(path, user.line).status for _ in range(times)]


# ---- identification of clients


def test_requests_of_a_user_pass_up_to_the_limit_then_none_reaches_the_upstream(
    gateway: Gateway, upstream: RecordingUpstream
) -> None:
    user, other = gateway.newcomer(), gateway.newcomer()
    assert statuses(gateway, "/counted/user/1", user, 7) == [200] * 4 + [429] * 3
    assert len(upstream.requests) == 4
    assert statuses(gateway, "/counted/user/2", user, 1) == [429]
    assert statuses(gateway, "/counted/user/1", other, 1) == [200]


def test_a_limit_is_the_routes_own(gateway: Gateway, upstream: RecordingUpstream) -> None:
    user = gateway.newcomer()
    assert statuses(gateway, "/counted/user/1", user, 5)[-1] == 429
    assert statuses(gateway, "/counted/small/1", user, 1) == [200]
    assert statuses(gateway, "/api/x", user, 1) == [200]


def test_a_user_is_one_caller_from_wherever_he_calls(gateway: Gateway, upstream: RecordingUpstream) -> None:
    user = gateway.newcomer()
    data = request("/counted/user/1", fields=[user.line])
    found = [ask_from(gateway, f"127.8.0.{number}", data).status for number in range(1, 7)]
    assert found == [200] * 4 + [429] * 2


def test_addresses_are_counted_for_all_users_together(
    gateway: Gateway, upstream: RecordingUpstream, source: str
) -> None:
    users = [gateway.newcomer() for _ in range(3)]
    data = [request("/counted/signed-in/x", fields=[users[number % 3].line]) for number in range(6)]
    assert [ask_from(gateway, source, each).status for each in data] == [200] * 4 + [429] * 2
    assert gateway.get("/counted/signed-in/x", users[0].line).status == 200


def test_anonymous_clients_are_counted_by_address_where_users_are_counted(
    gateway: Gateway, upstream: RecordingUpstream, source: str
) -> None:
    user = gateway.newcomer()
    anonymous = request("/counted/optional/1")
    bad = request("/counted/optional/1", fields=["Authorization: Bearer nonsense"])
    good = request("/counted/optional/1", fields=[user.line])
    found = [ask_from(gateway, source, data) for data in (anonymous, bad, anonymous, bad, anonymous, bad)]
    assert [each.status for each in found] == [200] * 4 + [429] * 2
    assert found[0].value("ratelimit") == b'"address";r=3;t=900'
    signed_in = ask_from(gateway, source, good)
    assert (signed_in.status, signed_in.value("ratelimit")) == (200, b'"user";r=3;t=900')


SPOOFED = ["X-Forwarded-For: {}", "X-Real-IP: {}", "Forwarded: for={}", "X-Client-IP: {}", "X-Original-For: {}"]


@pytest.mark.parametrize("line", SPOOFED)
def test_a_claimed_identity_does_not_change_the_count(
    gateway: Gateway, upstream: RecordingUpstream, source: str, line: str
) -> None:
    found = [
        ask_from(gateway, source, request("/counted/address/x", fields=[line.format(f"192.0.2.{number}")])).status
        for number in range(6)
    ]
    assert found == [200] * 4 + [429] * 2


def test_behind_a_trusted_proxy_its_clients_are_counted_by_address_and_not_by_their_claims(
    behind_proxy: Gateway, upstream: RecordingUpstream, source: str
) -> None:
    def status(forwarded: str) -> int:
        return behind_proxy.get("/counted/address/x", f"X-Forwarded-For: {forwarded}").status

    # The proxy appends the address it sees. The rest to the left is the client's own claim.
    assert [status(f"10.0.0.{number}, 198.51.100.1") for number in range(6)] == [200] * 4 + [429] * 2
    assert [status(f"198.51.100.{number}") for number in range(2, 5)] == [200] * 3
    addresses = [f"2001:db8:9:9::{number:x}" for number in range(1, 7)]
    assert [status(address) for address in addresses] == [200] * 4 + [429] * 2
    assert status("2001:db8:9:a::1") == 200
    # Other peers are not trusted proxies.
    data = [request("/counted/address/x", fields=[f"X-Forwarded-For: 203.0.113.{number}"]) for number in range(6)]
    assert [ask_from(behind_proxy, source, each).status for each in data] == [200] * 4 + [429] * 2


# ---- counted requests


def test_only_requests_that_would_reach_the_upstream_are_counted(gateway: Gateway, upstream: RecordingUpstream) -> None:
    """Path, route, method, credential, user and roles are checked first, so clients cannot use up another's limit."""
    user = gateway.newcomer()
    for data, status in [
        (request("/counted/user/%00", fields=[user.line]), 400),
        (request("/counted/user/1/2", fields=[user.line]), 404),
        (request("/counted/user/1", fields=[user.line + b"x"]), 401),
        (request("/counted/user/1"), 401),
    ]:
        assert [gateway.ask(data).status for _ in range(6)] == [status] * 6
    assert statuses(gateway, "/counted/user/1", user, 5) == [200] * 4 + [429]
    assert statuses(gateway, "/counted/admin/1", user, 6) == [403] * 6


def test_a_limit_comes_before_the_size_of_the_body_and_before_the_upstream(
    gateway: Gateway, upstream: RecordingUpstream
) -> None:
    user = gateway.newcomer()
    large = request("/counted/small/1", method="POST", fields=[user.line, "Content-Length: 5000"])
    assert [gateway.ask(large).status for _ in range(6)] == [413] * 4 + [429] * 2
    assert statuses(gateway, "/counted/dead/1", user, 6) == [502] * 4 + [429] * 2


def test_leaked_requests_can_be_sent_again(gateway: Gateway, upstream: RecordingUpstream) -> None:
    user = gateway.newcomer()
    assert statuses(gateway, "/counted/quick/1", user, 4)[-1] == 429
    refused = gateway.get("/counted/quick/1", user.line)
    assert refused.value("retry-after") == b"1"
    time.sleep(1.05)
    assert statuses(gateway, "/counted/quick/1", user, 4) == [200, 200, 200, 429]


def test_a_crowd_gets_no_more_through_than_one_after_another(gateway: Gateway, upstream: RecordingUpstream) -> None:
    user = gateway.newcomer()
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda _: gateway.get("/counted/user/9", user.line).status, range(40)))
    assert (found.count(200), found.count(429)) == (4, 36)


def test_pipelined_requests_are_counted_one_by_one(gateway: Gateway, upstream: RecordingUpstream) -> None:
    user = gateway.newcomer()
    data = request("/counted/user/1", fields=[user.line])
    with gateway.caller() as caller:
        caller.send(data * 6)
        found = [caller.receive() for _ in range(6)]
    assert [each.status for each in found] == [200] * 4 + [429] * 2


# ---- response fields


def test_every_response_carries_the_state_of_the_limit(gateway: Gateway, upstream: RecordingUpstream) -> None:
    user = gateway.newcomer()
    responses = []
    for _ in range(5):
        found = gateway.get("/counted/user/1", user.line)
        responses.append((found.status, found.value("ratelimit"), found.value("retry-after")))
        assert found.value("ratelimit-policy") == b'"user";q=4;w=3600'
    assert responses == [
        (200, b'"user";r=3;t=900', None),
        (200, b'"user";r=2;t=900', None),
        (200, b'"user";r=1;t=900', None),
        (200, b'"user";r=0;t=900', None),
        (429, b'"user";r=0;t=900', b"900"),
    ]


def test_a_refusal_has_the_form_of_every_error(gateway: Gateway, upstream: RecordingUpstream) -> None:
    user = gateway.newcomer()
    statuses(gateway, "/counted/user/1", user, 4)
    found = gateway.get("/counted/user/1", user.line, "X-Request-Id: abc-123")
    assert found.refused() == (429, "rate_limited")
    assert found.json() | {"request_id": ""} == {
        "type": "about:blank",
        "title": "Too Many Requests",
        "status": 429,
        "detail": "Too many requests",
        "code": "rate_limited",
        "request_id": "",
    }
    assert found.value("cache-control") == b"no-store"
    assert found.value("x-request-id") == b"abc-123"


def test_an_upstream_may_have_limits_of_its_own(gateway: Gateway, upstream: RecordingUpstream) -> None:
    """Both are lists, so one more member is one more limit (RFC 9651)."""
    user = gateway.newcomer()
    own = ['RateLimit: "daily";r=10;t=99', 'RateLimit-Policy: "daily";q=1000;w=86400', "Retry-After: 7"]
    upstream.on("/counted/user/1", answer(503, own))
    found = gateway.get("/counted/user/1", user.line)
    assert found.values("ratelimit") == [b'"daily";r=10;t=99', b'"user";r=3;t=900']
    assert found.values("ratelimit-policy") == [b'"daily";q=1000;w=86400', b'"user";q=4;w=3600']
    assert (found.status, found.value("retry-after")) == (503, b"7")


def test_routes_without_a_limit_have_no_rate_limit_fields(
    gateway: Gateway, upstream: RecordingUpstream, user: Account
) -> None:
    for found in (gateway.get("/api/x", user.line), gateway.get("/public/x"), gateway.get("/auth/me", user.line)):
        assert found.status == 200
        assert not found.values("ratelimit") and not found.values("ratelimit-policy")


def test_a_reloaded_configuration_resets_no_count(
    gateways: Gateways, upstream: RecordingUpstream, tmp_path: Path
) -> None:
    configuration = gateways.configuration(tmp_path)
    configuration["routes"] += routes()
    (tmp_path / "gateway.db").write_bytes(gateways.seed().read_bytes())
    gateway = Gateway("serve", configuration, tmp_path).start()
    try:
        user = gateway.newcomer()
        assert statuses(gateway, "/counted/user/1", user, 5)[-1] == 429
        assert statuses(gateway, "/counted/small/1", user, 5)[-1] == 429
        added = {"path": "/counted/new/{id}", "upstream": "web", "rate_limit": HOURLY}
        changed_limit = {"path": "/counted/small/{id}", "upstream": "web", "rate_limit": HOURLY | {"requests": 6}}
        kept = [route for route in configuration["routes"] if route["path"] != "/counted/small/{id}"]
        gateway.config.write_text(yaml.safe_dump(configuration | {"routes": [*kept, added, changed_limit]}))
        gateway.signal(signal.SIGHUP)
        eventually(lambda: gateway.get("/counted/new/1", user.line).status == 200)
        assert statuses(gateway, "/counted/user/1", user, 1) == [429]
        assert statuses(gateway, "/counted/small/1", user, 7) == [200] * 6 + [429]
    finally:
        gateway.stop()


# ---- under a flood


# Both servers count the same way, and thousands of requests take seconds.
@pytest.mark.parametrize("face", FACES if WHOLE else ["serve"], indirect=True)
def test_a_flood_of_made_up_addresses_takes_bounded_memory(
    gateways: Gateways, face: Face, upstream: RecordingUpstream
) -> None:
    """Behind the trusted proxy a client owns an IPv6 /32, which counts as four billion clients.

    All limits of a process have room for 100,000 clients, so each of fifty has room for 2,000.
    """
    others: list[dict[str, object]] = [
        {"path": f"/counted/other-{number}", "upstream": "web", "rate_limit": HOURLY} for number in range(40)
    ]
    behind_proxy = gateways.gateway(
        "counted-fifty", face, routes=routes() + others, server={"trusted_proxies": ["127.0.0.1/32"]}
    )
    path = "/counted/many/x"

    def forwarded(number: int) -> str:
        return f"X-Forwarded-For: 2001:db8:{number >> 16:x}:{number & 0xFFFF:x}::1"

    def flood(start: int, callers: int) -> None:
        with behind_proxy.caller(timeout=20.0) as caller:
            for batch in range(start, start + callers, 200):
                caller.send(b"".join(request(path, fields=[forwarded(n)]) for n in range(batch, batch + 200)))
                assert {caller.receive().status for _ in range(200)} == {200}
                upstream.requests.clear()

    flood(0, 400)
    before = behind_proxy.memory()
    flood(400, 1800)
    grown = behind_proxy.memory() - before
    assert grown < 1800 * 1000, f"{grown / 1800:.0f} bytes for each caller"
    assert [behind_proxy.get(path, forwarded(number)).status for number in (2199, 1600, 1)] == [429, 429, 200]


# ---- several processes


@pytest.fixture(scope="module")
def replicas(
    gateways: Gateways, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[list[Gateway], ValkeyServer]]:
    """Two processes over one database and one Valkey, one for each kind of server."""
    folder = tmp_path_factory.mktemp("replicas")
    with running(folder) as valkey:
        configuration = changed(gateways.configuration(folder), storage={"redis": valkey.url})
        configuration["routes"] += routes()
        (folder / "gateway.db").write_bytes(gateways.seed().read_bytes())
        servers = [Gateway(face, configuration, folder).start() for face in FACES]
        try:
            yield servers, valkey
        finally:
            for gateway in servers:
                gateway.stop()


def whole(servers: list[Gateway]) -> bool:
    return all(gateway.get("/_gateway/ready").json().get("degraded", []) == [] for gateway in servers)


def test_two_processes_count_together(
    replicas: tuple[list[Gateway], ValkeyServer], upstream: RecordingUpstream
) -> None:
    servers, _ = replicas
    user = servers[0].newcomer()
    found = [servers[number % 2].get("/counted/user/1", user.line) for number in range(8)]
    assert [each.status for each in found] == [200] * 4 + [429] * 4
    states = [each.value("ratelimit") for each in found]
    assert states == [b'"user";r=%d;t=900' % left for left in (3, 2, 1, 0, 0, 0, 0, 0)]
    assert found[-1].value("retry-after") == b"900"


def test_two_concurrent_processes_admit_as_many_as_one(
    replicas: tuple[list[Gateway], ValkeyServer], upstream: RecordingUpstream
) -> None:
    servers, _ = replicas
    user = servers[0].newcomer()
    data = request("/counted/often/1", fields=[user.line])
    started = time.monotonic()

    def asking(number: int) -> int:
        passed = 0
        with servers[number % 2].caller() as caller:
            while time.monotonic() - started < 2.0:
                if caller.send(data).receive().status == 200:
                    passed += 1
                else:
                    time.sleep(0.005)  # one request passes in 50 ms
        return passed

    with ThreadPoolExecutor(8) as pool:
        passed = sum(pool.map(asking, range(8)))
    took = time.monotonic() - started
    assert 20 + 20 * 1.5 <= passed <= 20 + 20 * took + 1, f"{passed} in {took:.2f} s"


def test_without_redis_no_client_is_refused_and_each_process_counts_for_itself(
    replicas: tuple[list[Gateway], ValkeyServer], upstream: RecordingUpstream
) -> None:
    servers, valkey = replicas
    known, fresh = servers[0].newcomer(), servers[0].newcomer()
    assert statuses(servers[0], "/counted/user/1", known, 3) == [200] * 3
    valkey.kill()
    try:
        assert statuses(servers[0], "/counted/user/1", known, 3) == [200, 429, 429]
        assert statuses(servers[1], "/counted/user/1", fresh, 6) == [200] * 4 + [429] * 2
        assert statuses(servers[0], "/counted/user/1", fresh, 6) == [200] * 4 + [429] * 2
    finally:
        valkey.start()
    eventually(lambda: whole(servers), timeout=5.0)
    eventually(lambda: count_together(servers))


def count_together(servers: list[Gateway]) -> bool:
    """Whether a new user gets from both together as much as from one."""
    user = servers[0].newcomer()
    found = [servers[number % 2].get("/counted/user/1", user.line).status for number in range(6)]
    return found == [200] * 4 + [429] * 2


def test_a_hung_redis_delays_no_request_by_a_second(
    replicas: tuple[list[Gateway], ValkeyServer], upstream: RecordingUpstream
) -> None:
    servers, valkey = replicas
    user = servers[0].newcomer()
    assert statuses(servers[0], "/counted/user/1", user, 1) == [200]
    valkey.pause()
    try:
        times = []
        for _ in range(5):
            started = time.monotonic()
            status = servers[0].get("/counted/user/1", user.line).status
            times.append((time.monotonic() - started, status))
        assert [status for _, status in times] == [200] * 3 + [429] * 2
        assert max(took for took, _ in times) < promised(0.8)
        assert sorted(took for took, _ in times)[1] < 0.24, "the limit of each call to Redis is 0.25 s"
    finally:
        valkey.resume()
    eventually(lambda: whole(servers), timeout=5.0)
    assert servers[1].get("/counted/user/1", user.line).status in (200, 429)
