"""Decisions by the gateway: Envoy asks `/_gateway/verify` about each request (ext_authz) and does what it hears.

There is no second matcher. The gateway tells which of its routes the request belongs to and which path is to be sent
on; Envoy chooses its route by that, out of metadata that no caller can write.
"""

from typing import Any, Final

from gateway.export.clusters import DECIDES
from gateway.export.messages import EXT_AUTHZ, Message, http_filter
from gateway.export.routes import answered, to_the_gateway, to_upstream
from gateway.identity.principals import identity_value
from gateway.policy.loading import Configuration
from gateway.settings.model import Settings

ROUTE: Final = "x-gateway-route"
PATH: Final = "x-gateway-path"

# What the gateway looks at, beside method, path, Host and Authorization, which Envoy sends by itself.
_ASKED_WITH: Final = (
    "origin",
    "access-control-request-method",
    "access-control-request-headers",
    "x-request-id",
    "x-forwarded-for",
    "x-forwarded-proto",
)
_SECONDS_FOR_A_DECISION: Final = "5s"


def filters(settings: Settings, identity: tuple[str, ...]) -> list[Message]:
    """The filter that asks. It allows nothing by itself: no answer is 503."""
    exactly = [{"exact": name.lower()} for name in identity]
    told = [{"prefix": "access-control-"}, {"exact": "vary"}, {"prefix": "ratelimit"}]
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
            "allowed_client_headers_on_success": {"patterns": told},
            "dynamic_metadata_from_headers": {"patterns": [{"exact": ROUTE}, {"exact": PATH}]},
        },
    }
    asking = {
        "transport_api_version": "V3",
        "failure_mode_allow": False,
        "status_on_error": {"code": 503},
        "clear_route_cache": True,
        "allowed_headers": {"patterns": [{"exact": name} for name in _ASKED_WITH]},
        "http_service": service,
    }
    return [http_filter(EXT_AUTHZ, asking)]


def virtual_hosts(configuration: Configuration) -> list[Message]:
    """One for all hosts: the gateway tells them apart."""
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
            routes += to_upstream(route, match, settings, {"path_rewrite": _metadata(PATH)})
    # Where requests stand until they are decided. One that stays here was not, and does not pass.
    routes.append(answered("undecided", {"prefix": "/"}, "internal_error"))
    # `OPTIONS *` has no path.
    routes.append(answered("asterisk", {"safe_regex": {"regex": r"\*"}}, "bad_path"))
    return [{"name": "everything", "domains": ["*"], "routes": routes}]


def remarks() -> tuple[str, ...]:
    """What a reader of the export must know."""
    return (
        "Decisions are the gateway's, asked for each request at /_gateway/verify: revoked is revoked at once.",
        "WebSockets and bodies of unannounced length go through the gateway itself.",
        "An event stream that Envoy proxies is not ended when its caller may not stay.",
    )


def _metadata(name: str) -> str:
    return f"%DYNAMIC_METADATA({EXT_AUTHZ}:{name})%"
