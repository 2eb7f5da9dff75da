"""Building blocks of an Envoy configuration (protobuf messages as JSON)."""

from ipaddress import ip_address
from typing import Any, Final

Message = dict[str, Any]

_EXTENSIONS: Final = "type.googleapis.com/envoy.extensions"
_HTTP: Final = f"{_EXTENSIONS}.filters.http"

EXT_AUTHZ: Final = "envoy.filters.http.ext_authz"
JWT_AUTHN: Final = "envoy.filters.http.jwt_authn"
RBAC: Final = "envoy.filters.http.rbac"
LUA: Final = "envoy.filters.http.lua"
ROUTER: Final = "envoy.filters.http.router"

_MESSAGES: Final = {
    EXT_AUTHZ: f"{_HTTP}.ext_authz.v3.ExtAuthz",
    JWT_AUTHN: f"{_HTTP}.jwt_authn.v3.JwtAuthentication",
    RBAC: f"{_HTTP}.rbac.v3.RBAC",
    LUA: f"{_HTTP}.lua.v3.Lua",
    ROUTER: f"{_HTTP}.router.v3.Router",
}
_PER_ROUTE: Final = {
    EXT_AUTHZ: f"{_HTTP}.ext_authz.v3.ExtAuthzPerRoute",
    JWT_AUTHN: f"{_HTTP}.jwt_authn.v3.PerRouteConfig",
    RBAC: f"{_HTTP}.rbac.v3.RBACPerRoute",
}


def http_filter(name: str, configuration: Message) -> Message:
    """A filter of the chain."""
    return {"name": name, "typed_config": {"@type": _MESSAGES[name], **configuration}}


def per_route(name: str, configuration: Message) -> Message:
    """The configuration of a filter on one route."""
    return {name: {"@type": _PER_ROUTE[name], **configuration}}


def extension(path: str, configuration: Message) -> Message:
    """A typed message of `envoy.extensions`."""
    return {"@type": f"{_EXTENSIONS}.{path}", **configuration}


def socket_address(host: str, port: int) -> Message:
    return {"socket_address": {"address": host, "port_value": port}}


def is_address(host: str) -> bool:
    """Whether a host is an IP address, which needs no DNS."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def duration(seconds: float | None) -> str:
    """A duration in Envoy's format. None means no limit, which Envoy writes as zero."""
    return "0s" if seconds is None else f"{seconds:.9f}".rstrip("0").rstrip(".") + "s"


def fitting(expression: str) -> Message:
    """A StringMatcher for texts that the expression (RE2) matches as a whole."""
    return {"safe_regex": {"regex": expression}}


def overwriting(name: str, value: str) -> Message:
    """A header that replaces existing values."""
    return {"header": {"key": name, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
