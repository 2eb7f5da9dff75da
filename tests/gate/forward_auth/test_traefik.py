"""The snippet for Traefik, tested by a model of its rules and expressions, because no package provides Traefik.

Traefik tries routers by priority. `customRequestHeaders` with an empty value removes a header. The forwardAuth
middleware removes each request header whose name matches the expression, and then copies those of the response. The
entry point removes the headers that it manages.
"""

import re
from typing import Any, Final, NamedTuple

import pytest
import yaml

from bench.snippets import snippet
from tests.advisories.test_forwarded_trust import HEARSAY
from tests.advisories.test_identity_headers import FORGED, NAMES
from tests.gate.forward_auth.test_front_proxies import NOT_FOR_CALLERS, UNLISTED, VERIFY_SPELLINGS

# The headers managed by the entry point of Traefik 3 (pkg/middlewares/forwardedheaders).
MANAGED: Final = {
    f"x-forwarded-{name}"
    for name in ("proto", "scheme", "for", "host", "port", "server", "uri", "method", "prefix")
} | {"x-real-ip", "x-scheme", "x-forwarded-tls-client-cert", "x-forwarded-tls-client-cert-info"}  # fmt: skip


class Router(NamedTuple):
    name: str
    rule: str
    service: str
    middlewares: list[str]
    priority: int

    def takes(self, path: str, headers: dict[str, str]) -> bool:
        """Whether the rule matches. Traefik decodes and cleans a path before the rules (`sanitizePath`)."""
        rule = re.sub(r"PathPrefix\(`(.*?)`\)", r"path.startswith('\1')", self.rule)
        rule = re.sub(r"Path\(`(.*?)`\)", r"(path == '\1')", rule)
        rule = re.sub(r"HeaderRegexp\(`(.*?)`, `(.*?)`\)", r"bool(re.search('\2', headers.get('\1', '')))", rule)
        rule = rule.replace("&&", " and ").replace("||", " or ").replace("!", " not ")
        return bool(eval(rule, {"re": re, "path": path, "headers": headers}))


def _written() -> dict[str, Any]:
    document = yaml.safe_load(snippet("yaml", {}))["http"]
    assert isinstance(document, dict)
    return document


SNIPPET: Final = _written()
ROUTERS: Final = [
    Router(name, each["rule"], each["service"], each["middlewares"], each.get("priority", len(each["rule"])))
    for name, each in SNIPPET["routers"].items()
]
MIDDLEWARES: Final = SNIPPET["middlewares"]


def chosen(path: str, **headers: str) -> Router:
    return next(each for each in sorted(ROUTERS, key=lambda each: -each.priority) if each.takes(path, headers))


def left_out(router: Router, name: str) -> bool:
    """Whether a field of an untrusted client is removed before the service."""
    if name.lower() in MANAGED:
        return True
    for middleware in router.middlewares:
        kinds = MIDDLEWARES[middleware]
        listed = {
            each.lower()
            for each, value in kinds.get("headers", {}).get("customRequestHeaders", {}).items()
            if not value
        }
        expression = kinds.get("forwardAuth", {}).get("authResponseHeadersRegex")
        if name.lower() in listed or (expression is not None and re.search(expression, name)):
            return True
    return False


@pytest.mark.parametrize(
    ("path", "router"),
    [("/", "app"), ("/api/x", "app"), ("/authx", "app"), ("/_gateway", "app"), ("/auth/login", "own"),
     ("/_gateway/health", "own"), ("/.well-known/jwks.json", "own"), ("/_gateway/verify", "app")],
)  # fmt: skip
def test_each_path_has_its_router(path: str, router: str) -> None:
    assert chosen(path).name == router


def test_a_websocket_goes_to_the_gateway() -> None:
    for value in ("websocket", "WebSocket", "h2c, websocket"):
        assert chosen("/sockets/x", Upgrade=value).name == "websocket"
    assert chosen("/auth/x", Upgrade="websocket").service == "gateway"


@pytest.mark.parametrize("path", VERIFY_SPELLINGS)
@pytest.mark.parametrize("upgrade", ["", "websocket"])
def test_no_request_of_a_caller_asks_the_gateway(path: str, upgrade: str) -> None:
    cleaned = re.sub("//+", "/", path.partition("?")[0].replace("%76", "v").replace("%5F", "_").replace("/auth/..", ""))
    if cleaned.startswith("/_gateway/verify"):
        assert chosen(cleaned, Upgrade=upgrade).service == "app"


def test_every_decision_is_asked_for_and_no_statement_of_a_caller_is_believed() -> None:
    forwarding = MIDDLEWARES["gateway"]["forwardAuth"]
    assert forwarding["address"].endswith("/_gateway/verify")
    assert forwarding["trustForwardHeader"] is False
    for router in ROUTERS:
        assert (router.service == "gateway") == ("gateway" not in router.middlewares)


@pytest.mark.parametrize("name", [*sorted({line.partition(":")[0] for line in FORGED}), "Authorization"])
def test_no_spelling_of_an_identity_header_reaches_the_upstream(name: str) -> None:
    assert left_out(chosen("/api/x"), name)


@pytest.mark.parametrize("name", sorted({*NOT_FOR_CALLERS, *(line.partition(":")[0] for line in HEARSAY)}))
def test_an_untrusted_client_sets_no_header_of_the_upstream(name: str) -> None:
    for joint in "-_.!#$%&'*+^`|~":
        assert left_out(chosen("/api/x"), name.replace("-", joint))
    # The gateway itself removes other spellings, even from trusted proxies.
    if name not in (UNLISTED, "X-Forwarded-By", "X-Original-Proto", "X-Original-Forwarded-For"):
        assert left_out(chosen("/auth/x"), name)
        assert left_out(chosen("/sockets/x", Upgrade="websocket"), name)


@pytest.mark.parametrize(
    "name", ["Accept", "Cookie", "Content-Type", "X-Custom", "X-User", "X-Userland-Id", "X-Request-Id"]
)
def test_other_headers_go_on(name: str) -> None:
    assert not left_out(chosen("/api/x"), name)


def test_identity_headers_are_copied_from_the_answer() -> None:
    expression = MIDDLEWARES["gateway"]["forwardAuth"]["authResponseHeadersRegex"]
    assert all(re.search(expression, name) for name in NAMES)
    for other in ("X-Gateway-Path", "X-Gateway-Route", "Cache-Control", "Date", "X-Request-Id"):
        assert not re.search(expression, other)
