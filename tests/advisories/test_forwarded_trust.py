"""B. Client address, scheme and host are accepted only from trusted proxies."""

from pathlib import Path

import pytest

from tests.support import launcher
from tests.support.configurations import changed
from tests.support.expectations import passes, refuses
from tests.support.faces import stock
from tests.support.gateways import Gateways
from tests.support.processes import Account, Gateway, command, write_configuration
from tests.support.recording import RecordingUpstream
from tests.support.wording import request

HEARSAY = [
    "X-Forwarded-For: 127.0.0.1",
    "X-Forwarded-Proto: https",
    "X-Forwarded-Host: admin.example.com",
    "X-Forwarded-Prefix: /public",
    "X-Forwarded-Port: 443",
    "X-Forwarded-Uri: /public/x",
    "X-Forwarded-Method: GET",
    "X-Forwarded-Server: admin",
    "X-Forwarded-Ssl: on",
    "X-Forwarded-User: root",
    "X-Forwarded-Email: root@corp",
    "X-Forwarded-Anything-Else: 1",
    "Forwarded: for=127.0.0.1;proto=https;host=admin.example.com",
    "X-Real-IP: 127.0.0.1",
    "X-Original-URL: /public/x",
    "X-Original-Method: GET",
    "X-Original-Host: admin.example.com",
    "X-Rewrite-URL: /public/x",
    "X-Forwarded: for=127.0.0.1",
    "X-Client-IP: 127.0.0.1",
    "X-Cluster-Client-IP: 127.0.0.1",
    "True-Client-IP: 127.0.0.1",
    "CF-Connecting-IP: 127.0.0.1",
    "Fastly-Client-IP: 127.0.0.1",
]
OURS = {"X-Forwarded-For": b"127.0.0.1", "X-Forwarded-Proto": b"http", "X-Forwarded-Host": b"gateway.test"}
OURS["X-Forwarded-Port"] = b"80"


@pytest.mark.parametrize("line", HEARSAY)
def test_CVE_2026_40575_a_stranger_does_not_choose_the_path(
    gateway: Gateway, upstream: RecordingUpstream, line: str
) -> None:
    refuses(gateway, upstream, request("/admin/x", fields=[line]), 401, "token_missing")


def test_CVE_2026_76835_trusting_every_network_is_refused_at_start(gateways: Gateways, tmp_path: Path) -> None:
    networks = ["10.0.0.0/8", "0.0.0.0/0", "::/0"]
    configuration = changed(gateways.configuration(tmp_path), server={"trusted_proxies": networks})
    config = write_configuration(tmp_path, configuration)
    done = command(config, "serve", "--port", "1")
    assert done.returncode == 2
    output = done.stdout + done.stderr
    assert f"{config}:5:" in output, output
    assert "server.trusted_proxies" in output, output
    assert "Traceback" not in output
    code = "import gateway.app; gateway.app.create_app_from_environment()"
    started = launcher.run(["-c", code], env={"GATEWAY_CONFIG": str(config)}, timeout=20)
    assert started.returncode != 0


@pytest.mark.parametrize("line", HEARSAY)
def test_CVE_2026_35051_identity_headers_of_an_untrusted_client_are_dropped(
    gateway: Gateway, upstream: RecordingUpstream, line: str
) -> None:
    name = line.partition(":")[0]
    received = passes(gateway, upstream, request("/public/x", fields=[line]))
    assert received.seen_as(name) == ([OURS[name]] if name in OURS else [])


@pytest.mark.parametrize("line", HEARSAY)
def test_CVE_2026_35051_in_every_spelling_that_folds_to_it(
    gateway: Gateway, upstream: RecordingUpstream, line: str
) -> None:
    name, _, value = line.partition(":")
    folded = [
        f"{spelling}:{value}" for spelling in (name.upper(), *(name.replace("-", joint) for joint in "_.!#$%&'*+^`|~"))
    ]
    received = passes(gateway, upstream, request("/public/x", fields=folded))
    assert received.seen_as(name) == ([OURS[name]] if name in OURS else [])


def test_oathkeeper_e9acca14_a_stranger_does_not_choose_the_scheme(
    gateway: Gateway, upstream: RecordingUpstream
) -> None:
    fields = ["X-Forwarded-Proto: https", "X-Forwarded-Proto: javascript", "X-Forwarded-Proto: "]
    assert passes(gateway, upstream, request("/public/x", fields=fields)).seen_as("x-forwarded-proto") == [b"http"]


def test_CVE_2025_41235_the_address_is_the_sockets(gateway: Gateway, upstream: RecordingUpstream) -> None:
    fields = ["X-Forwarded-For: 10.1.1.1, 10.2.2.2", "X-Forwarded-For: 10.3.3.3", "Forwarded: for=10.4.4.4"]
    received = passes(gateway, upstream, request("/public/x", fields=fields))
    assert received.seen_as("x-forwarded-for") == [b"127.0.0.1"]
    assert received.seen_as("forwarded") == []


def test_GHSA_vj36_3ccr_6563_no_endpoint_echoes_a_spoofed_address(gateway: Gateway, user: Account) -> None:
    answer = gateway.get("/auth/me", user.line, "X-Forwarded-For: 203.0.113.77", "X-Real-IP: 203.0.113.77")
    assert answer.status == 200
    assert b"203.0.113.77" not in answer.body


MALFORMED_HOSTS = [
    "a/public/x?y=",
    "example.com/abc?bar=",
    "example.com#x",
    "example.com?x",
    "user@example.com",
    "exa mple.com",
    "a,b",
    "",
    ":8000",
    "[::1",
    "::1",
    "[::1]x",
    "[zz::1]",
    "example.com:http",
    "example.com:80:80",
    "example.com:-1",
    "exam\\ple.com",
    "<x>",
    "example.com\x80",
    "ex\tample.com",
    "example..com:80/",
    "%zz.example.com",
]


@pytest.mark.parametrize("host", MALFORMED_HOSTS)
def test_CVE_2026_48710_a_host_that_is_none_is_refused(
    gateway: Gateway, upstream: RecordingUpstream, admin: Account, host: str
) -> None:
    line = b"Host: " + host.encode("latin-1")
    for path in ("/admin/x", "/public/x"):
        data = request(path, host=None, fields=[line, admin.line])
        refuses(gateway, upstream, data, 400, {"bad_host", "bad_request"})


@pytest.mark.parametrize(
    "lines",
    [[], ["Host: a.test", "Host: b.test"], ["Host: a.test", "Host: a.test"], ["host: a.test", "HOST: b.test"]],
    ids=["none", "two", "twice the same", "two spellings"],
)
def test_a_missing_or_repeated_host_is_refused(gateway: Gateway, upstream: RecordingUpstream, lines: list[str]) -> None:
    refuses(gateway, upstream, request("/public/x", host=None, fields=lines), 400, "bad_host")


@pytest.mark.parametrize(
    "host", ["127.0.0.1:8000", "EXAMPLE.com", "example.com.", "[::1]:80", "[::1]", "a_b.test", "a", "x:"]
)
def test_hosts_of_every_good_form_are_served(gateway: Gateway, upstream: RecordingUpstream, host: str) -> None:
    passes(gateway, upstream, request("/public/x", host=host))


@pytest.mark.parametrize(
    "host",
    ["admin.example.com", "ADMIN.example.com", "Admin.Example.COM", "admin.example.com.", "admin.example.com:443",
     "ADMIN.EXAMPLE.COM.:8443"],
)  # fmt: skip
def test_CVE_2021_39155_a_rule_for_a_host_holds_in_every_spelling(
    gateway: Gateway, upstream: RecordingUpstream, user: Account, admin: Account, host: str
) -> None:
    """Case, one trailing dot and the port never select the routes for other hosts."""
    refuses(gateway, upstream, request("/public/x", host=host), 401, "token_missing")
    refuses(gateway, upstream, request("/public/x", host=host, fields=[user.line]), 403, "forbidden")
    passes(gateway, upstream, request("/anything", host=host, fields=[admin.line]))


@pytest.mark.parametrize(
    "host", ["admin.example.com..", "admin.example.com.:x", ".admin.example.com", "admin..example.com"]
)
def test_OpenShell_2201_odd_dots_never_lead_past_the_rule(
    gateway: Gateway, upstream: RecordingUpstream, host: str
) -> None:
    """Refused as an invalid host, or treated as another host, where /anything is not served."""
    upstream.requests.clear()
    answer = gateway.ask(request("/anything", host=host))
    assert answer.status in (400, 404), answer
    assert upstream.requests == []


@pytest.mark.parametrize(
    "host",
    [
        "inside.example.com.evil.com",
        "evil-inside.example.com",
        "inside.evil.com",
        "inside.example",
        "x.inside.example.com",
    ],
)
def test_CVE_2026_100724_hosts_are_compared_whole(gateway: Gateway, upstream: RecordingUpstream, host: str) -> None:
    refuses(gateway, upstream, request("/inside/x", host=host), 404, "no_route")
    passes(gateway, upstream, request("/inside/x", host="inside.example.com"))


def test_a_host_with_routes_of_its_own_sees_no_others(gateway: Gateway, upstream: RecordingUpstream) -> None:
    refuses(gateway, upstream, request("/public/x", host="inside.example.com"), 404, "no_route")


def test_the_host_of_an_absolute_target_decides_and_must_be_the_same(
    gateway: Gateway, upstream: RecordingUpstream, admin: Account
) -> None:
    same = request("http://admin.example.com/x", host="admin.example.com", fields=[admin.line])
    assert passes(gateway, upstream, same).line == b"GET /x HTTP/1.1"
    for target, host in (
        ("http://admin.example.com/public/x", "gateway.test"),
        ("http://gateway.test/public/x", "admin.example.com"),
        ("http://user@gateway.test/public/x", "gateway.test"),
    ):
        data = request(target, host=host)
        if not stock(gateway.face, "authority"):
            refuses(gateway, upstream, data, 400, {"bad_host", "bad_path", "bad_request"})
        elif host == "admin.example.com":
            refuses(gateway, upstream, data, 401, "token_missing")
        else:
            assert passes(gateway, upstream, data).line == b"GET /public/x HTTP/1.1"


@pytest.mark.parametrize(
    "agent", ["GoogleHC/1.0", "kube-probe/1.29", "ELB-HealthChecker/2.0", "Envoy/HC", "Consul Health Check", "Wget"]
)
def test_CVE_2026_34457_a_user_agent_opens_nothing(gateway: Gateway, upstream: RecordingUpstream, agent: str) -> None:
    refuses(gateway, upstream, request("/admin/x", fields=[f"User-Agent: {agent}"]), 401, "token_missing")
