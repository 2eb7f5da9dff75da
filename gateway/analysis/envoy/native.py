"""Export with decisions by Envoy alone: jwt_authn with the gateway's keys, RBAC on the `roles` claim, routes by path.

Envoy matches paths itself, so the first routes refuse all paths that the gateway refuses. The remaining routes have the
order of the gateway's tree: the most specific first, segment by segment.
"""

from typing import Final

from gateway.analysis.envoy.clusters import GATEWAY
from gateway.analysis.envoy.messages import JWT_AUTHN, LUA, RBAC, Message, fitting, http_filter, per_route
from gateway.analysis.envoy.paths import ACCEPTED, FORBIDDEN, HOST, after, matching
from gateway.analysis.envoy.routes import UNTRANSLATED, answered, method_is, to_the_gateway, to_upstream
from gateway.policy.loader import Configuration
from gateway.policy.patterns import TRACE, Pattern
from gateway.policy.policy import group_by_host
from gateway.policy.rewrite import PrefixStrip, Template
from gateway.policy.route import Route
from gateway.policy.trie import RouteGroup
from gateway.settings.model import Settings

_CLAIMS: Final = "gateway"
_REQUIRED, _OPTIONAL = "required", "optional"

# RFC 9110 11.1: schemes are case-insensitive, but Envoy's prefixes are case-sensitive.
_SCHEMES: Final = ("Bearer", "bearer", "BEARER")
_SEGMENT_OF: Final = "([^/?]*)"

# Identity headers in the gateway's encoding: visible ASCII; other characters and `%` escaped, in roles the comma too.
_IDENTITY: Final = """\
local function value(text, with_comma)
  local visible = tostring(text):gsub("%%", "%%25")
  visible = visible:gsub("[^!-~]", function(c) return string.format("%%%02X", c:byte()) end)
  if with_comma then visible = visible:gsub(",", "%%2C") end
  return visible
end
function envoy_on_request(handle)
  local found = handle:streamInfo():dynamicMetadata():get("envoy.filters.http.jwt_authn")
  local claims = found and found["gateway"]
  if not claims then return end
  local roles = {}
  for _, role in pairs(claims["roles"] or {}) do table.insert(roles, role) end
  table.sort(roles)
  for number, role in ipairs(roles) do roles[number] = value(role, true) end
  handle:headers():replace("ID_HEADER", value(claims["sub"], false))
  handle:headers():replace("ROLES_HEADER", table.concat(roles, ","))
end
"""


def filters(settings: Settings) -> list[Message]:
    """The filters that authenticate, authorize, and set the identity headers."""
    tokens, headers = settings.tokens, settings.identity.headers
    keys = {
        "http_uri": {"uri": "http://gateway/.well-known/jwks.json", "cluster": GATEWAY, "timeout": "5s"},
        "cache_duration": "300s",
        "async_fetch": {"fast_listener": False},
    }
    provider = {
        "issuer": tokens.issuer,
        "audiences": [tokens.audience],
        "remote_jwks": keys,
        # Explicit, because Envoy also accepts tokens in the query by default.
        "from_headers": [{"name": "Authorization", "value_prefix": f"{scheme} "} for scheme in _SCHEMES],
        "forward": True,  # removed by the routes that do not forward it
        "require_expiration": True,
        "clock_skew_seconds": int(tokens.leeway),
        "payload_in_metadata": _CLAIMS,
        "jwt_cache_config": {"jwt_cache_size": 10_000},
    }
    one_of = {"requirements": [{"provider_name": _CLAIMS}, {"allow_missing_or_failed": {}}]}
    authentication = {
        "providers": {_CLAIMS: provider},
        "requirement_map": {_REQUIRED: {"provider_name": _CLAIMS}, _OPTIONAL: {"requires_any": one_of}},
    }
    script = _IDENTITY.replace("ID_HEADER", headers.id.lower()).replace("ROLES_HEADER", headers.roles.lower())
    return [
        http_filter(JWT_AUTHN, authentication),
        http_filter(RBAC, {}),
        http_filter(LUA, {"default_source_code": {"inline_string": script}}),
    ]


def virtual_hosts(configuration: Configuration) -> list[Message]:
    """One virtual host for each host that a route names, and one for all others."""
    settings, policy = configuration.settings, configuration.policy
    groups = group_by_host(route for route in policy.routes if not route.shadow)
    groups.setdefault(None, [])
    first = [*_refusals(), *to_the_gateway(policy.own, settings, native=True)]
    return [_virtual_host(host, routes, first, settings) for host, routes in groups.items()]


def remarks() -> tuple[str, ...]:
    """The limitations of this mode, for readers of the export."""
    return (
        "GIVEN UP by --native: Envoy reads no user records. A token is valid until it expires, even if its "
        "user, session or roles change: no instant revocation.",
        "The email header is never set, because tokens contain no address. API keys are refused.",
        "Refusals have the gateway's status, but Envoy's own body.",
        "WebSockets and bodies without Content-Length go through the gateway itself, with all its rules.",
        UNTRANSLATED,
    )


def _refusals() -> list[Message]:
    """Refusals that precede all routes."""
    wrong_host = {"name": ":authority", "string_match": fitting(HOST), "invert_match": True}
    wrong_path = {"name": ":path", "string_match": fitting(ACCEPTED), "invert_match": True}
    matches: list[tuple[str, Message]] = [("bad_path", {"prefix": "/", "headers": [wrong_path]})]
    for expression in FORBIDDEN:
        forbidden = {"name": ":path", "string_match": fitting(expression)}
        matches.append(("bad_path", {"prefix": "/", "headers": [forbidden]}))
    matches.append(("bad_host", {"prefix": "/", "headers": [wrong_host]}))
    return [answered(f"refused {number}", match, code) for number, (code, match) in enumerate(matches)]


def _virtual_host(host: bytes | None, routes: list[Route], first: list[Message], settings: Settings) -> Message:
    written = list(first)
    for pattern, place in _places(routes):
        written += _place(pattern, place, settings)
    written.append(answered("nothing here", {"prefix": "/"}, "no_route"))
    written.append(answered("asterisk", {"safe_regex": {"regex": r"\*"}}, "bad_path"))
    if host is None:
        return {"name": "other hosts", "domains": ["*"], "routes": written}
    name = host.decode("ascii")
    domains = [name, f"{name}:*", f"{name}.", f"{name}.:*"]
    return {"name": name, "domains": domains, "routes": written}


def _places(routes: list[Route]) -> list[tuple[Pattern, RouteGroup]]:
    """The places, in order of precedence."""
    places: dict[object, tuple[Pattern, RouteGroup]] = {}
    for route in routes:
        _, place = places.setdefault(route.shape.shape, (route.shape, RouteGroup()))
        place.add(route)
    return sorted(places.values(), key=lambda each: _specificity(each[0]))


def _specificity(pattern: Pattern) -> tuple[int, ...]:
    """Sort key: literals before captures before `/**`; a pattern that ends here before longer ones."""
    return (*(0 if text is not None else 1 for text in pattern.segments), 2 if pattern.has_rest else -1)


def _place(pattern: Pattern, place: RouteGroup, settings: Settings) -> list[Message]:
    match: Message = {"safe_regex": {"regex": matching(pattern)}}
    written: list[Message] = []
    for route in dict.fromkeys(place.routes):
        methods = [TRACE.decode()] if route.methods is None else sorted(method.decode() for method in route.methods)
        its = {**match, "headers": [{**method_is(methods), "invert_match": route.methods is None}]}
        requirement = _requirement(route)
        written += [
            {**each, "typed_per_filter_config": requirement}
            for each in to_upstream(route, its, settings, _rewrite(route))
        ]
    written.append(answered(f"{pattern.text} (other methods)", match, "method_not_allowed", allow=place.allow))
    return written


def _requirement(route: Route) -> Message:
    """The requirements of jwt_authn and RBAC on a route."""
    if route.authentication == "none":
        return per_route(JWT_AUTHN, {"disabled": True})
    credential = _REQUIRED if route.authentication == "required" else _OPTIONAL
    authentication = per_route(JWT_AUTHN, {"requirement_name": credential})
    groups = [*([route.requirement.any] if route.requirement.any is not None else [])]
    groups += [frozenset((role,)) for role in sorted(route.requirement.all or ())]
    if not groups:
        return authentication
    principals = [_one_of(roles) for roles in groups]
    rule = {"permissions": [{"any": True}], "principals": [{"and_ids": {"ids": principals}}]}
    return authentication | per_route(RBAC, {"rbac": {"rules": {"action": "ALLOW", "policies": {"roles": rule}}}})


def _one_of(roles: frozenset[str]) -> Message:
    return {"or_ids": {"ids": [_has(role) for role in sorted(roles)]}}


def _has(role: str) -> Message:
    matcher = {
        "filter": JWT_AUTHN,
        "path": [{"key": _CLAIMS}, {"key": "roles"}],
        "value": {"list_match": {"one_of": {"string_match": {"exact": role}}}},
    }
    return {"sourced_metadata": {"metadata_matcher": matcher, "metadata_source": "DYNAMIC"}}


def _rewrite(route: Route) -> Message:
    """The rewrite as an expression. Captures are segments, counted from the left."""
    match route.rewrite:
        case None:
            return {}
        case PrefixStrip(count, base):
            whole = {"regex": rf"{after(count)}/?([^?]*)"}
            return {"regex_rewrite": {"pattern": whole, "substitution": rf"{base.decode('ascii')}/\1"}}
        case Template() as template:
            return {"regex_rewrite": _template(route, template)}


def _template(route: Route, template: Template) -> Message:
    fixed = "".join(f"/{_SEGMENT_OF}" for _ in route.shape.segments)
    places = [number for _, number in route.captures]
    base = template.base.decode("ascii")
    head = "".join("/" + _part(part, places) for part in template.parts)
    if template.rest_after is not None:
        rest = len(route.shape.segments) + 1
        whole = rf"{head}\{rest}" if head else rf"/\{rest}"
        return {"pattern": {"regex": f"^{fixed}([^?]*)"}, "substitution": base + whole}
    whole = head + "/" if template.ends_in_slash else head or "/"
    return {"pattern": {"regex": f"^{fixed}[^?]*"}, "substitution": base + whole}


def _part(part: bytes | int, places: list[int]) -> str:
    return part.decode("ascii").replace("\\", r"\\") if isinstance(part, bytes) else rf"\{places[part]}"
