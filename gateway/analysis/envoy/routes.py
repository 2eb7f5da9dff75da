"""Routes of both export modes: traffic for the gateway itself, direct responses, and upstream routes."""

import json
from collections.abc import Iterable, Sequence
from http import HTTPStatus
from typing import Final

from gateway.analysis.envoy.clusters import GATEWAY, cluster_name
from gateway.analysis.envoy.messages import (
    CHUNKED,
    EXT_AUTHZ,
    JWT_AUTHN,
    METHOD_OVERRIDE_NAMES,
    RBAC,
    Message,
    duration,
    extension,
    fitting,
    per_route,
)
from gateway.analysis.envoy.paths import matching
from gateway.errors import CODES
from gateway.policy.builtin_routes import VERIFY
from gateway.policy.rewrite import PrefixStrip
from gateway.policy.route import Route
from gateway.settings.model import RouteSettings, Settings, UpstreamSettings

UNTRANSLATED: Final = "Envoy does not translate redirects and cookies of upstreams (rewrite_responses)."
"""A remark for both modes."""

_BEYOND: Final = 1 << 62
# A retry uses another target if one exists.
_OTHER_TARGET: Final = {
    "name": "envoy.retry_host_predicates.previous_hosts",
    "typed_config": extension("retry.host.previous_hosts.v3.PreviousHostsPredicate", {}),
}
# Fields that Envoy adds, or that only it needs.
_ENVOYS_OWN = ["x-envoy-external-address", "x-envoy-internal", "x-envoy-expected-rq-timeout-ms", CHUNKED]
# CORS fields of upstreams, removed where the gateway writes them.
_CORS = [
    f"access-control-{name}"
    for name in ("allow-origin", "allow-credentials", "allow-methods", "allow-headers", "max-age")
]


def undecided(*, native: bool) -> Message:
    """Per-route configuration without authentication."""
    if native:
        return {**per_route(JWT_AUTHN, {"disabled": True}), **per_route(RBAC, {})}
    return per_route(EXT_AUTHZ, {"disabled": True})


def answered(name: str, match: Message, code: str, *, allow: str | None = None) -> Message:
    """A direct response with one of the gateway's errors."""
    status, detail = CODES[code]
    title = HTTPStatus(status).phrase
    body = {"type": "about:blank", "title": title, "status": status, "detail": detail, "code": code}
    fields = {"content-type": "application/problem+json", "cache-control": "no-store"}
    if allow is not None:
        fields["allow"] = allow
    return {
        "name": name,
        "match": match,
        "direct_response": {"status": status, "body": {"inline_string": json.dumps(body)}},
        "response_headers_to_add": [_set(name, value) for name, value in fields.items()],
    }


def to_the_gateway(own: Iterable[Route], settings: Settings, *, native: bool) -> list[Message]:
    """Routes to the gateway: built-in endpoints, and traffic that Envoy cannot proxy under the same rules.

    The latter are WebSockets, which revocation must end, and bodies without Content-Length, which must be counted.
    """
    asks = undecided(native=native)
    verify = next(route for route in own if route.endpoint == VERIFY)
    refused = answered("verify", {"safe_regex": _expression(verify)}, "forbidden")
    sockets = {"name": "upgrade", "string_match": {"contains": "websocket", "ignore_case": True}}
    chunked = {"name": CHUNKED, "present_match": True}
    routes = [
        {**refused, "typed_per_filter_config": asks},
        _by_the_gateway("websocket", {"prefix": "/", "headers": [sockets]}, asks, upgrade=True),
        _by_the_gateway("unannounced-body", {"prefix": "/", "headers": [chunked]}, asks),
    ]
    served = [route for route in own if route.is_served and route is not verify]
    if settings.server.operations_port is not None:
        served = [route for route in served if not route.pattern.startswith("/_gateway/")]
    patterns = {route.pattern: route for route in served}
    routes += [_by_the_gateway(pattern, {"safe_regex": _expression(each)}, asks) for pattern, each in patterns.items()]
    return routes


def to_upstream(route: Route, match: Message, settings: Settings, path: Message) -> list[Message]:
    """The routes of one rule: one refuses bodies with a too large Content-Length, one proxies. `path` is the
    rewrite."""
    each = route.settings
    assert each is not None and route.upstream is not None
    upstream = settings.upstreams[route.upstream]
    removed = [] if route.passes_credentials else ["authorization"]
    removed += [] if upstream.method_override else METHOD_OVERRIDE_NAMES
    added = {"via": "1.1 gateway"}
    if isinstance(route.rewrite, PrefixStrip) and route.rewrite.count:
        prefix = "/".join(route.pattern.split("/")[: route.rewrite.count + 1])
        added["x-forwarded-prefix"] = prefix.replace("%", "%%")  # In Envoy, a single percent sign begins a command.
    served: Message = {
        "name": route.name,
        "match": match,
        "route": {**_action(upstream, each, settings), **path},
        "request_headers_to_remove": [*_ENVOYS_OWN, *removed],
        "request_headers_to_add": [{"header": {"key": name, "value": value}} for name, value in added.items()],
    }
    if route.cors is not None:
        served["response_headers_to_remove"] = _CORS
    limit = settings.server.max_body if each.max_body is None else each.max_body
    if not limit:
        return [served]
    length = {"name": "content-length", "range_match": {"start": limit + 1, "end": _BEYOND}}
    too_large = {**match, "headers": [*match.get("headers", ()), length]}
    return [answered(f"{route.name} (body too large)", too_large, "body_too_large"), served]


def _action(upstream: UpstreamSettings, each: RouteSettings, settings: Settings) -> Message:
    limit = each.response_timeout if isinstance(each.response_timeout, float | None) else upstream.response_timeout
    return {
        "cluster": cluster_name(upstream.name),
        # Envoy's `timeout` covers the whole response, which can be long. The idle timeout ends silent requests instead.
        "timeout": "0s",
        "idle_timeout": duration(None if limit is None else max(limit, upstream.idle_timeout)),
        "auto_host_rewrite": not upstream.preserve_host,
        "append_x_forwarded_host": True,
        "retry_policy": {
            "retry_on": "connect-failure,refused-stream,reset-before-request",
            "num_retries": upstream.retries,
            "host_selection_retry_max_attempts": 3,
            "retry_host_predicate": [_OTHER_TARGET],
        },
    }


def _by_the_gateway(name: str, match: Message, asks: Message, *, upgrade: bool = False) -> Message:
    # The gateway enforces idle timeouts.
    action: Message = {"cluster": GATEWAY, "timeout": "0s", "idle_timeout": "0s"}
    if upgrade:
        action["upgrade_configs"] = [{"upgrade_type": "websocket", "enabled": True}]
    return {
        "name": f"gateway: {name}",
        "match": match,
        "route": action,
        "typed_per_filter_config": asks,
        "request_headers_to_remove": _ENVOYS_OWN,
    }


def _expression(route: Route) -> Message:
    return {"regex": matching(route.shape)}


def _set(name: str, value: str) -> Message:
    return {"header": {"key": name, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}


def method_is(methods: Sequence[str]) -> Message:
    """A HeaderMatcher for these methods."""
    return {"name": ":method", "string_match": fitting("|".join(methods))}
