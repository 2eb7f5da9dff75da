"""Export with decisions by the gateway: Envoy calls `/_gateway/verify` for each request (ext_authz).

Envoy matches nothing itself. The gateway returns the matching route and the path to forward; Envoy selects its route
by them, from metadata that clients cannot set.
"""

from typing import Any, Final

from gateway.analysis.envoy.clusters import DECIDES
from gateway.analysis.envoy.messages import EXT_AUTHZ, Message, http_filter
from gateway.analysis.envoy.routes import UNTRANSLATED, answered, to_the_gateway, to_upstream
from gateway.identity.principal import identity_value
from gateway.policy.loader import Configuration
from gateway.settings.model import Settings

ROUTE: Final = "x-gateway-route"
PATH: Final = "x-gateway-path"
COOKIE: Final = "x-gateway-cookie"

# Request fields that decisions use, besides method, path, Host and Authorization, which Envoy always sends.
_ASKED_WITH: Final = (
    "origin",
    "access-control-request-method",
    "access-control-request-headers",
    "x-request-id",
    "x-forwarded-for",
    "x-forwarded-proto",
)
# With sessions: the cookie, the proof that it needs, and the fields that identify a navigation.
_OF_BROWSERS: Final = ("accept", "cookie", "x-requested-with")
_OF_BROWSERS_PREFIX: Final = "sec-fetch-"
_SECONDS_FOR_A_DECISION: Final = "5s"


def filters(settings: Settings, identity: tuple[str, ...]) -> list[Message]:
    """The ext_authz filter. It fails closed: without a response the status is 503."""
    exactly = [{"exact": name.lower()} for name in identity]
    sent: list[dict[str, str]] = [{"exact": name} for name in _ASKED_WITH]
    metadata = [{"exact": ROUTE}, {"exact": PATH}]
    if settings.sessions is not None:
        sent += [*({"exact": name} for name in _OF_BROWSERS), {"prefix": _OF_BROWSERS_PREFIX}]
        metadata.append({"exact": COOKIE})
    returned = [{"prefix": "access-control-"}, {"exact": "vary"}, {"prefix": "ratelimit"}]
    service: dict[str, Any] = {
        "server_uri": {"uri": "http://gateway", "cluster": DECIDES, "timeout": _SECONDS_FOR_A_DECISION},
        "path_override": "/_gateway/verify",
        "authorization_request": {
            "headers_to_add": [
                {"key": "x-forwarded-uri", "value": "%REQ(:PATH)%"},
                {"key": "x-forwarded-method", "value": "%REQ(:METHOD)%"},
            ]
        },
        "authorization_response": {
            "allowed_upstream_headers": {"patterns": exactly},
            "allowed_client_headers_on_success": {"patterns": returned},
            "dynamic_metadata_from_headers": {"patterns": metadata},
        },
    }
    asking = {
        "transport_api_version": "V3",
        "failure_mode_allow": False,
        "status_on_error": {"code": 503},
        "clear_route_cache": True,
        "allowed_headers": {"patterns": sent},
        "http_service": service,
    }
    return [http_filter(EXT_AUTHZ, asking)]


def virtual_hosts(configuration: Configuration) -> list[Message]:
    """One virtual host for all domains: the gateway distinguishes hosts."""
    settings, policy = configuration.settings, configuration.policy
    routes = to_the_gateway(policy.own, settings, native=False)
    for route in policy.routes:
        if not route.shadow:
            decided = {
                "filter": EXT_AUTHZ,
                "path": [{"key": ROUTE}],
                "value": {"string_match": {"exact": identity_value(route.name).decode("ascii")}},
            }
            match = {"prefix": "/", "dynamic_metadata": [decided]}
            made = to_upstream(route, match, settings, {"path_rewrite": _metadata(PATH)})
            if settings.sessions is not None:
                _replace_cookies(made[-1])
            routes += made
    # Every request matches this route until the gateway has decided. A request that still matches it is refused.
    routes.append(answered("undecided", {"prefix": "/"}, "internal_error"))
    # `OPTIONS *` has no path.
    routes.append(answered("asterisk", {"safe_regex": {"regex": r"\*"}}, "bad_path"))
    return [{"name": "everything", "domains": ["*"], "routes": routes}]


def _replace_cookies(served: Message) -> None:
    """Send the cookies without the gateway's own: Envoy removes fields before it adds any."""
    served["request_headers_to_remove"].append("cookie")
    served["request_headers_to_add"].append({"header": {"key": "cookie", "value": _metadata(COOKIE)}})


def remarks() -> tuple[str, ...]:
    """Remarks for readers of the export."""
    return (
        "The gateway decides each request at /_gateway/verify, so revocation takes effect at once.",
        "WebSockets and bodies without Content-Length go through the gateway itself.",
        "Revocation does not end event streams that Envoy proxies.",
        UNTRANSLATED,
    )


def _metadata(name: str) -> str:
    return f"%DYNAMIC_METADATA({EXT_AUTHZ}:{name})%"
