"""Web servers that normalise header names, behind the gateway: a CGI program sees only the client's identity.

lighttpd replaces every byte of a name except letters and digits with `_`; Apache drops such names except for `-`.
"""

from collections.abc import Iterator
from typing import NamedTuple

import pytest

from tests.support.cgi_servers import NAMES, CgiServer, Name, installed, variables
from tests.support.gateways import Gateways
from tests.support.processes import Face, Gateway
from tests.support.raw import Caller
from tests.support.wording import request

JOINTS = "!#$%&'*+-.^_`|~"
PATH = "/cgi/show.cgi"
# Clients set these in this spelling.
CALLERS_OWN = {"X-Request-Id", "Max-Forwards"}


class Served(NamedTuple):
    """A gateway, and the server behind it."""

    gateway: Gateway
    server: CgiServer
    name: Name


@pytest.fixture(scope="module", params=NAMES)
def served(
    request: pytest.FixtureRequest, gateways: Gateways, face: Face, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    name: Name = request.param
    if not installed(name):
        pytest.skip(f"{name} is not installed")
    server = CgiServer(name, tmp_path_factory.mktemp(name))
    routes: list[dict[str, object]] = [
        {"path": "/cgi/**", "auth": "optional", "upstream": "cgi"},
        {"path": "/cgi/show.cgi/traced", "methods": ["GET", "TRACE"], "upstream": "cgi"},
        {"path": "/cgi/show.cgi/overridable", "auth": "none", "upstream": "obeying"},
    ]
    upstreams = {"cgi": server.url, "obeying": {"targets": [server.url], "method_override": True}}
    identity = {"assertion": {"header": "X-Identity-Token", "ttl": "60s"}}
    yield Served(
        gateways.gateway(f"before-{name}", face, routes=routes, upstreams=upstreams, identity=identity), server, name
    )
    server.stop()


def spellings(name: str) -> list[str]:
    """The name with a character in place of all its hyphens, and of one of them."""
    return [name.replace("-", joint, count) for joint in JOINTS for count in (-1, 1)]


def test_without_a_gateway_the_server_folds_names(served: Served) -> None:
    """The threat tested in this file. Apache has normalised only `-` since 2.4."""
    with Caller(served.server.address) as caller:
        answer = caller.send(request(PATH, fields=["X!User!Id: root", "X-User-Email: root"])).receive()
    seen = variables(answer.body)
    assert seen["HTTP_X_USER_EMAIL"] == "root"
    assert ("HTTP_X_USER_ID" in seen) == (served.name == "lighttpd")


@pytest.mark.parametrize("name", ["X-User-Id", "X-User-Email", "X-User-Roles", "X-Identity-Token"])
def test_no_spelling_of_an_identity_header_reaches_the_program(served: Served, name: str) -> None:
    variable = f"HTTP_{name.upper().replace('-', '_')}"
    forged = [f"{spelling}: root" for spelling in spellings(name)]
    answer = served.gateway.ask(request(PATH, fields=forged))
    assert answer.status == 200
    assert variable not in variables(answer.body)
    user = served.gateway.login("user@example.com")
    seen = variables(served.gateway.ask(request(PATH, fields=[*forged, user.line])).body)
    assert "root" not in seen[variable]
    assert seen["HTTP_X_USER_ID"] == user.id


@pytest.mark.parametrize(
    "name",
    ["X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Forwarded-Port", "X-Forwarded-Prefix",
     "X-Request-Id", "X-Real-IP", "X-Client-IP", "X-Cluster-Client-IP", "True-Client-IP", "CF-Connecting-IP",
     "Fastly-Client-IP", "X-Forwarded", "Forwarded", "X-Original-URL", "X-Rewrite-URL", "Proxy",
     "X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override", "Max-Forwards",
     "Script-Name", "Path-Info", "X-Script-Name", "Daphne-Root-Path"],
)  # fmt: skip
def test_an_untrusted_client_cannot_set_forwarding_headers(served: Served, name: str) -> None:
    names = {name, *spellings(name)} - CALLERS_OWN
    answer = served.gateway.ask(request(PATH, fields=[f"{each}: b@d" for each in names]))
    assert answer.status == 200
    assert "b@d" not in variables(answer.body).get(f"HTTP_{name.upper().replace('-', '_')}", "")


def test_a_method_override_reaches_the_program_that_asks_for_it(served: Served) -> None:
    fields = ["X-HTTP-Method-Override: DELETE", "X_HTTP_Method_Override: PUT", "X!HTTP!Method!Override: PUT"]
    answer = served.gateway.ask(request(f"{PATH}/overridable", fields=fields))
    assert variables(answer.body)["HTTP_X_HTTP_METHOD_OVERRIDE"] == "DELETE"


def test_a_trace_shows_no_secret(served: Served) -> None:
    """Apache answers a TRACE with the request that it received."""
    user = served.gateway.login("user@example.com")
    refused = served.gateway.ask(request(PATH, method="TRACE", fields=[user.line]))
    assert refused.refused() == (405, "method_not_allowed")
    shown = served.gateway.ask(request(f"{PATH}/traced", method="TRACE", fields=[user.line]))
    if served.name == "apache2":
        assert shown.status == 200
        assert b"X-Forwarded-For" in shown.body
    assert b"X-Identity-Token" not in shown.body
    assert user.token.encode() not in shown.body
