"""`gateway export envoy`: its output, its errors, and a real Envoy that decides like the gateway."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench.peers.caddy import find_program
from tests.cli.running import run
from tests.properties.parity_envoy import Tally, compare
from tests.properties.parity_lab import ParityLab
from tests.support.upstreams import Authority

ENVOY = find_program("envoy")

BASE: dict[str, Any] = {
    "server": {"trusted_proxies": ["127.0.0.1/32"]},
    "storage": {"database": "sqlite:///gateway.db"},
    "upstreams": {"web": "http://127.0.0.1:9000"},
    "routes": [{"path": "/public/**", "auth": "none", "upstream": "web"}, {"path": "/api/**", "upstream": "web"}],
}


def written(folder: Path, **changes: Any) -> Path:
    path = folder / "gateway.yaml"
    path.write_text(json.dumps({**BASE, **changes}, indent=1))
    return path


def exported(folder: Path, *options: str, **changes: Any) -> dict[str, Any]:
    outcome = run("export", "envoy", "--config", str(written(folder, **changes)), "--json", *options, folder=folder)
    assert outcome.code == 0, outcome.err
    document = json.loads(outcome.out)
    assert isinstance(document, dict)
    return document


def refused(folder: Path, *options: str, **changes: Any) -> str:
    outcome = run("export", "envoy", "--config", str(written(folder, **changes)), *options, folder=folder)
    assert outcome.code == 1, outcome.out[:500]
    assert outcome.out == ""
    return outcome.err


def validates(folder: Path, document: dict[str, Any]) -> None:
    """The real Envoy accepts the file."""
    path = folder / "envoy.json"
    path.write_text(json.dumps(document))
    command = [str(ENVOY), "--mode", "validate", "-c", str(path), "-l", "error"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


def everything(authority: Authority) -> dict[str, Any]:
    """Every key that an export reads."""
    upstreams = {
        "web": {
            "targets": ["http://127.0.0.1:9000", "http://localhost:9001"],
            "balance": "least_requests",
            "health": {"path": "/healthz", "host": "app.example.com"},
            "eject": {"failures": 3, "for": "20s"},
            "retries": 2,
            "max_head_size": "16KiB",
        },
        "secure": {
            "targets": ["https://orders.internal:8443"],
            "tls": {"ca": str(authority.file)},
            "response_timeout": None,
            "preserve_host": True,
            "eject": None,
        },
        "trusting": {"targets": ["https://10.0.0.1"], "tls": {"verify": False}},
        "local": {"targets": ["unix:/run/app.sock:/base", "http://127.0.0.1:9002/base"]},
    }
    routes = [
        {"path": "/a/{id}/**", "rewrite": "/v2/{id}/{**}", "upstream": "web", "max_body": 0},
        {"path": "/b/**", "strip_prefix": "/b", "upstream": "secure", "response_timeout": "5m", "host": "b.example"},
        {"path": "/c", "methods": ["GET"], "roles": {"any": ["user"], "all": ["a", "b"]}, "upstream": "trusting"},
        {"path": "/d/{x}", "auth": "optional", "websocket": True, "upstream": "web", "forward_credentials": True},
        {"path": "/e/**", "strip_prefix": "/e", "upstream": "local"},
        {"path": "/f/{x}", "rewrite": "/v2/{x}", "upstream": "local"},
        {"path": "/**", "auth": "none", "upstream": "web"},
    ]
    return {"upstreams": upstreams, "routes": routes, "tokens": {"include_roles": True}}


@pytest.mark.parametrize("options", [(), ("--native",)])
def test_envoy_accepts_the_export_of_every_key(tmp_path: Path, authority: Authority, options: tuple[str, ...]) -> None:
    validates(tmp_path, exported(tmp_path, *options, **everything(authority)))


@pytest.mark.parametrize("options", [(), ("--native",)])
def test_many_routes_are_taken_too(tmp_path: Path, options: tuple[str, ...]) -> None:
    routes = [{"path": f"/p{number}/{{x}}/**", "roles": ["user"], "upstream": "web"} for number in range(100)]
    validates(tmp_path, exported(tmp_path, *options, routes=routes, tokens={"include_roles": True}))


def test_yaml_is_the_same_document_with_its_remarks(tmp_path: Path) -> None:
    outcome = run("export", "envoy", "--config", str(written(tmp_path)), folder=tmp_path)
    assert yaml.safe_load(outcome.out) == exported(tmp_path)
    assert "# The gateway decides each request" in outcome.out
    assert outcome.err == ""


def test_the_addresses_are_those_that_were_named(tmp_path: Path) -> None:
    document = exported(tmp_path, "--listen", "0.0.0.0:8443", "--gateway", "gateway.internal:9999")
    resources = document["static_resources"]
    assert resources["listeners"][0]["address"]["socket_address"] == {"address": "0.0.0.0", "port_value": 8443}
    cluster = resources["clusters"][0]
    assert cluster["type"] == "STRICT_DNS"
    assert "gateway.internal" in json.dumps(cluster)


def test_with_a_port_for_operations_decisions_are_asked_there_and_nothing_else_is_served(tmp_path: Path) -> None:
    server = {"trusted_proxies": ["127.0.0.1/32"], "operations_port": 9090}
    document = exported(tmp_path, server=server)
    clusters = {each["name"]: json.dumps(each) for each in document["static_resources"]["clusters"]}
    assert '"port_value": 9090' in clusters["gateway-decides"]
    assert "9090" not in clusters["gateway"]
    assert "gateway: /_gateway/health" not in json.dumps(document)
    assert "gateway: /_gateway/health" in json.dumps(exported(tmp_path))


@pytest.mark.parametrize("address", ["8080", "host:", "host:0", "host:70000", ":80"])
def test_an_address_that_is_none_is_wrong_usage(tmp_path: Path, address: str) -> None:
    outcome = run("export", "envoy", "--config", str(written(tmp_path)), "--listen", address, folder=tmp_path)
    assert outcome.code == 2


def test_an_unavailable_gateway_allows_nothing(tmp_path: Path) -> None:
    text = json.dumps(exported(tmp_path))
    assert '"failure_mode_allow": false' in text
    assert '"name": "undecided"' in text


def test_lost_features_are_listed_first(tmp_path: Path) -> None:
    config = written(tmp_path, tokens={"include_roles": True})
    lines = run("export", "envoy", "--native", "--config", str(config), folder=tmp_path).out.splitlines()
    assert any("no instant revocation" in line for line in lines[:6])


def test_a_unix_socket_is_a_pipe_and_a_base_path_precedes_the_path(tmp_path: Path, authority: Authority) -> None:
    text = json.dumps(exported(tmp_path, "--native", **everything(authority)))
    assert '"address": {"pipe": {"path": "/run/app.sock"}}' in text
    assert r'"substitution": "/base/\\1"' in text
    assert r'"substitution": "/base/v2/\\2"' in text


MIXED = {"web": {"targets": ["http://a:1", "https://b:2"]}}
LOCAL = {"web": {"targets": ["unix:/run/app.sock", "http://b:2"]}}
HASHED = {"web": {"targets": ["http://a:1", "http://b:2"], "balance": {"hash": "cookie id"}}}
HMAC = [{"kid": "k", "algorithm": "HS256", "secret": "0123456789abcdef0123456789abcdef"}]


@pytest.mark.parametrize(
    ("key", "changes"),
    [
        ("server.trusted_proxies", {"server": {}}),
        ("upstreams.web.targets", {"upstreams": MIXED}),
        ("upstreams.web.balance", {"upstreams": HASHED}),
        ("upstreams.web.targets", {"upstreams": LOCAL}),
    ],
)
@pytest.mark.parametrize("options", [(), ("--native",)])
def test_settings_without_an_equivalent_in_envoy_are_an_error(
    tmp_path: Path, key: str, changes: dict[str, Any], options: tuple[str, ...]
) -> None:
    assert f": {key}: " in refused(tmp_path, *options, **changes)


@pytest.mark.parametrize("options", [(), ("--native",)])
def test_tls_of_the_listener_is_an_error(tmp_path: Path, options: tuple[str, ...]) -> None:
    certificate = tmp_path / "with-key.pem"
    certificate.touch(0o600)
    server = {"trusted_proxies": ["127.0.0.1/32"], "tls": {"certificate": str(certificate)}}
    assert ": server.tls: " in refused(tmp_path, *options, server=server)


def with_route(**keys: Any) -> dict[str, Any]:
    return {"routes": [{"path": "/a/{id}", "upstream": "web", **keys}]}


@pytest.mark.parametrize(
    ("key", "changes"),
    [
        ("tokens.include_roles", {"tokens": {}}),
        ("tokens.leeway", {"tokens": {"include_roles": True, "leeway": "0s"}}),
        ("tokens.keys[0]", {"tokens": {"include_roles": True, "keys": HMAC}}),
        ("server.paths", {"server": {"trusted_proxies": ["127.0.0.1/32"], "paths": "relaxed"}}),
        ("server.hosts", {"server": {"trusted_proxies": ["127.0.0.1/32"], "hosts": ["*.example.com"]}}),
        ("routes[0].owner", with_route(owner="id")),
        ("routes[0].rate_limit", with_route(rate_limit={"requests": 1, "per": "1m"})),
        ("routes[0].cors", with_route(cors={"origins": ["https://app.example.com"]})),
        ("routes[0].encoded_slash", with_route(encoded_slash="keep")),
    ],
)
def test_decisions_that_envoy_cannot_make_alone_are_an_error_with_its_line(
    tmp_path: Path, key: str, changes: dict[str, Any]
) -> None:
    changes = {"tokens": {"include_roles": True}, **changes}
    errors = refused(tmp_path, "--native", **changes)
    found = [line for line in errors.splitlines() if f": {key}: " in line]
    assert len(found) == 1, errors
    assert int(found[0].split(":")[1]) >= 1
    if key != "tokens.include_roles" and not key.startswith(("tokens", "server.paths")):
        exported(tmp_path, **changes)  # the gateway itself decides on these


# ---- the real Envoy beside the gateway


@pytest.fixture(scope="module")
def parity_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ParityLab]:
    parity_lab = ParityLab(tmp_path_factory.mktemp("parity"))
    yield parity_lab
    parity_lab.close()


@pytest.mark.parametrize("native", [False, True], ids=["ext_authz", "native"])
def test_envoy_decides_as_the_gateway_does(parity_lab: ParityLab, native: bool) -> None:
    """A sample; `python -m tests.properties.parity_envoy` compares thousands."""
    tally = Tally()
    for seed in (101, 102):
        differences = list(compare(parity_lab, seed, 80, native=native, tally=tally))
        assert differences == []
    assert tally.passed > 30
    assert tally.refused > 30
