"""The configurations of the black-box tests, as plain dictionaries."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.support.processes import Configuration, Engine
from tests.support.token_factory import TokenFactory
from tests.support.upstreams import Upstreams

PAGES = {"origins": ["https://app.example.com", "http://localhost:5173"]}

# The three rules of the advisory suite come first; paths without a route are 404.
ROUTES: list[dict[str, Any]] = [
    {"path": "/public/**", "auth": "none", "upstream": "web"},
    {"path": "/admin/**", "roles": ["admin"], "upstream": "web"},
    {"path": "/api/**", "upstream": "web"},
    {"path": "/optional/**", "auth": "optional", "upstream": "web"},
    {"path": "/optional-forwarded/**", "auth": "optional", "forward_credentials": True, "upstream": "web"},
    {"path": "/forwarded/**", "forward_credentials": True, "upstream": "web"},
    {"path": "/public-unforwarded/**", "auth": "none", "forward_credentials": False, "upstream": "web"},
    {"path": "/public-forwarded/**", "auth": "none", "forward_credentials": True, "upstream": "web"},
    {"path": "/stripped/**", "auth": "none", "strip_prefix": "/stripped", "upstream": "web"},
    {"path": "/guard/**", "roles": ["admin"], "strip_prefix": "/guard", "upstream": "web"},
    {"path": "/rewritten/{id}/**", "rewrite": "/v2/{id}/data/{**}", "upstream": "web"},
    {"path": "/turned/{a}/{b}", "auth": "none", "rewrite": "/admin/{b}/{a}", "upstream": "web"},
    {"path": "/kept/{name}/x", "auth": "none", "encoded_slash": "keep", "upstream": "web"},
    {"path": "/item/{x}", "roles": ["admin"], "upstream": "web"},
    {"path": "/literal/v1.2", "auth": "none", "upstream": "web"},
    {"path": "/methods/x", "auth": "none", "methods": ["GET"], "upstream": "web"},
    {"path": "/methods/x", "roles": ["admin"], "methods": ["POST", "PUT"], "upstream": "web", "name": "methods-write"},
    {"path": "/methods/**", "auth": "none", "upstream": "web"},
    {"path": "/users/{user_id}/**", "roles": ["admin"], "owner": "user_id", "upstream": "web"},
    {"path": "/mine/{user_id}", "owner": "user_id", "upstream": "web"},
    {"path": "/editors/**", "roles": ["editor"], "upstream": "web"},
    {"path": "/both/**", "roles": {"all": ["editor", "auditor"]}, "upstream": "web"},
    {"path": "/**", "host": "admin.example.com", "roles": ["admin"], "upstream": "web", "name": "admin-host"},
    {"path": "/inside/**", "host": "inside.example.com", "auth": "none", "upstream": "web"},
    {"path": "/uploads/**", "auth": "none", "max_body": 0, "upstream": "web"},
    {"path": "/small/**", "auth": "none", "max_body": "1KiB", "upstream": "web"},
    {"path": "/impatient/**", "auth": "none", "upstream": "impatient"},
    {"path": "/hasty/**", "auth": "none", "response_timeout": "250ms", "upstream": "web"},
    {"path": "/tight/**", "auth": "none", "upstream": "tight"},
    {"path": "/single/**", "auth": "none", "upstream": "single"},
    {"path": "/refusing/**", "auth": "none", "upstream": "refusing"},
    {"path": "/full-backlog/**", "auth": "none", "upstream": "full-backlog"},
    {"path": "/secure/**", "auth": "none", "upstream": "secure"},
    {"path": "/untrusted/**", "auth": "none", "upstream": "untrusted"},
    {"path": "/misnamed/**", "auth": "none", "upstream": "misnamed"},
    {"path": "/own-host/**", "auth": "none", "upstream": "own-host"},
    {"path": "/short-heads/**", "auth": "none", "upstream": "short-heads"},
    {"path": "/overridable/**", "auth": "none", "upstream": "overridable"},
    {"path": "/traced/**", "methods": ["GET", "OPTIONS", "TRACE"], "upstream": "web"},
    {"path": "/sockets/**", "websocket": True, "upstream": "web"},
    {"path": "/sockets-of-admins/**", "websocket": True, "roles": ["admin"], "upstream": "web"},
    {"path": "/sockets-of-editors/**", "websocket": True, "roles": ["editor"], "upstream": "web"},
    {"path": "/public-sockets/**", "websocket": True, "auth": "none", "upstream": "web"},
    {"path": "/sockets-of-some/**", "websocket": True, "auth": "optional", "upstream": "web"},
    {"path": "/sockets-of-pages/**", "websocket": True, "auth": "none", "upstream": "web", "cors": PAGES},
    {"path": "/sockets-over-tls/**", "websocket": True, "auth": "none", "upstream": "secure"},
    {"path": "/sockets-to-refusing/**", "websocket": True, "auth": "none", "upstream": "refusing"},
    {"path": "/sockets-in-haste/**", "websocket": True, "auth": "none", "upstream": "impatient"},
]

# All tests use one address, and many of them send wrong passwords or register accounts.
NO_LOCKOUT = {"failures": 1_000_000, "per_address_failures": 1_000_000}

ROLES = {"admin": ["editor"], "editor": ["user"], "user": [], "auditor": []}


def standard(upstreams: Upstreams, token_factory: TokenFactory, folder: Path) -> Configuration:
    """The configuration of the advisory and conformance tests: every kind of route over every kind of upstream."""
    web = upstreams.web.url
    secure = {"targets": [upstreams.secure.url], "eject": None, "connect_timeout": "2s"}
    return {
        "server": {"max_header_size": "16KiB", "drain": "5s"},
        "storage": {"database": f"sqlite:///{folder / 'gateway.db'}"},
        "accounts": {"password": {"bcrypt_rounds": 4}, "lockout": NO_LOCKOUT, "registration_limit": None},
        "tokens": {"keys": token_factory.settings(), "access_ttl": "2h"},
        "roles": ROLES,
        "upstreams": {
            "web": {"targets": [web], "eject": None},
            "impatient": {
                "targets": [web],
                "response_timeout": "250ms",
                "idle_timeout": "500ms",
                "eject": None,
            },
            "tight": {"targets": [web], "max_connections": 1, "connect_timeout": "400ms", "eject": None},
            "single": {"targets": [web], "max_connections": 1, "connect_timeout": "20s", "eject": None},
            "refusing": {"targets": [upstreams.refusing.url], "eject": None},
            "full-backlog": {"targets": [upstreams.full_backlog.url], "connect_timeout": "250ms", "eject": None},
            "secure": secure | {"tls": {"ca": str(upstreams.authority.file), "server_name": "orders.internal"}},
            "untrusted": secure,
            "misnamed": secure | {"tls": {"ca": str(upstreams.authority.file), "server_name": "billing.internal"}},
            "own-host": {"targets": [web], "preserve_host": False, "eject": None},
            "short-heads": {"targets": [web], "max_head_size": "4KiB", "eject": None},
            "overridable": {"targets": [web], "method_override": True, "eject": None},
        },
        "routes": copy.deepcopy(ROUTES),
    }


def with_engine(configuration: Configuration, engine: Engine) -> Configuration:
    """A copy with this engine for every upstream."""
    result = copy.deepcopy(configuration)
    for upstream in result["upstreams"].values():
        upstream["engine"] = engine
    return result


def changed(configuration: Configuration, **sections: Mapping[str, Any]) -> Configuration:
    """A copy with other values for some keys of some sections."""
    result = copy.deepcopy(configuration)
    for name, values in sections.items():
        result.setdefault(name, {}).update(values)
    return result
