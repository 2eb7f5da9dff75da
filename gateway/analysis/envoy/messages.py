"""Building blocks of an Envoy configuration (protobuf messages as JSON)."""

import re
from collections.abc import Iterable
from ipaddress import ip_address
from itertools import repeat
from typing import Any, Final

from gateway.wire.fields import FORWARDING_NAMES, FORWARDING_PREFIXES, METHOD_OVERRIDES, NEVER_SENT_ON, SPECIAL_NAMES

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


# Header fields that clients must not set, in every spelling that an upstream could normalise to them
# (CVE-2025-64484).
#
# Envoy uses lower-case names. The expressions treat all characters except letters and digits as equal.
_JOINT: Final = "[^a-z0-9]"
_OTHER_JOINT: Final = "[^a-z0-9-]"
# `x-envoy-` controls Envoy itself (CVE-2023-27487). This module uses `x-gateway-`.
_PREFIXES: Final = (*(prefix.decode("ascii") for prefix in FORWARDING_PREFIXES), "x-envoy-", "x-gateway-")

CHUNKED: Final = "x-gateway-chunked"
"""Marks requests with a body without Content-Length: Envoy hides Transfer-Encoding from route matching."""

METHOD_OVERRIDE_NAMES: Final = sorted(name.decode("ascii") for name in METHOD_OVERRIDES)
"""Removed from requests to upstreams without `method_override`."""


def spellings(name: str) -> str:
    """An expression for all names that normalise to this one."""
    return _joined(name.lower(), repeat(_JOINT))


def misspellings(name: str) -> list[str]:
    """Expressions for the names that normalise to this one but differ, one per hyphen that is another character."""
    joints = len(re.findall(_JOINT, name))
    return [_joined(name, [_OTHER_JOINT if each == odd else _JOINT for each in range(joints)]) for odd in range(joints)]


def early_mutations(own_names: Iterable[str]) -> Message:
    """Changes to the header fields of every request, before all other processing."""
    special = [each for name in sorted(SPECIAL_NAMES) for each in misspellings(name.decode("ascii"))]
    never = [re.escape(name.decode("ascii")) for name in sorted(NEVER_SENT_ON)]
    forwarding = [spellings(name.decode("ascii")) for name in sorted(FORWARDING_NAMES)]
    forwarding += [f"{spellings(prefix)}.*" for prefix in _PREFIXES]
    removed = [fitting("|".join(names)) for names in (map(spellings, own_names), forwarding, special, never)]
    mutations = [
        *({"remove_on_match": {"key_matcher": names}} for names in removed),
        {"append": overwriting("x-forwarded-for", "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%")},
        {"append": overwriting(CHUNKED, "%REQ(TRANSFER-ENCODING)%")},
    ]
    path = "http.early_header_mutation.header_mutation.v3.HeaderMutation"
    return {
        "name": "envoy.http.early_header_mutation.header_mutation",
        "typed_config": extension(path, {"mutations": mutations}),
    }


def _joined(name: str, joints: Iterable[str]) -> str:
    first, *others = re.split(_JOINT, name)
    return re.escape(first) + "".join(joint + re.escape(part) for joint, part in zip(joints, others, strict=False))
