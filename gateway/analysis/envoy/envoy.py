"""The policy as a complete Envoy configuration: a bootstrap file for `envoy -c FILE`."""

from dataclasses import dataclass
from typing import Any, Final

from gateway.analysis.envoy import ext_authz
from gateway.analysis.envoy import native as natively
from gateway.analysis.envoy.clusters import DECIDES, GATEWAY, gateway_cluster, upstream_cluster
from gateway.analysis.envoy.messages import (
    ROUTER,
    Message,
    duration,
    early_mutations,
    extension,
    http_filter,
    socket_address,
)
from gateway.analysis.envoy.unsupported import refuse_unsupported
from gateway.policy.loader import Configuration
from gateway.settings.model import Settings

Place = tuple[str, int]

_KIB: Final = 1024
_LARGEST_HEAD: Final = 8192  # KiB, Envoy's own limit
_EXPRESSIONS: Final = {"re2.max_program_size.error_level": 1_000_000, "re2.max_program_size.warn_level": 1_000_000}
_LOG_FIELDS: Final = {
    "time": "%START_TIME%",
    "request_id": "%REQ(X-REQUEST-ID)%",
    "client": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
    "method": "%REQ(:METHOD)%",
    "path": "%PATH(NQ:ORIG)%",
    "route": "%ROUTE_NAME%",
    "status": "%RESPONSE_CODE%",
    "duration_ms": "%DURATION%",
    "received": "%BYTES_RECEIVED%",
    "sent": "%BYTES_SENT%",
}


@dataclass(frozen=True, slots=True)
class Export:
    """The bootstrap, and remarks for its readers."""

    bootstrap: dict[str, Any]
    remarks: tuple[str, ...]


def envoy_export(configuration: Configuration, *, listen: Place, gateway: Place, native: bool) -> Export:
    """The configuration for an Envoy that listens at `listen` and reaches the gateway at `gateway`.

    Raises ConfigurationError with every key that Envoy cannot express.
    """
    refuse_unsupported(configuration, native=native)
    settings = configuration.settings
    upstreams = [upstream_cluster(each, settings.health_host(each)) for each in settings.upstreams.values()]
    clusters = [gateway_cluster(GATEWAY, *gateway), *upstreams]
    if not native:
        clusters.insert(1, gateway_cluster(DECIDES, gateway[0], settings.server.operations_port or gateway[1]))
    bootstrap = {
        "static_resources": {"listeners": [_listener(configuration, listen, native=native)], "clusters": clusters},
        "overload_manager": _connections(settings),
        # Envoy's default limit for expressions is low. These come from the configuration, not from clients.
        "layered_runtime": {"layers": [{"name": "expressions", "static_layer": _EXPRESSIONS}]},
    }
    return Export(bootstrap, natively.remarks() if native else ext_authz.remarks())


def own_header_names(settings: Settings) -> tuple[str, ...]:
    """The headers that only the gateway sets."""
    headers, assertion = settings.identity.headers, settings.identity.assertion
    return (*headers.names.values(), *((assertion.header,) if assertion is not None else ()))


def _listener(configuration: Configuration, listen: Place, *, native: bool) -> Message:
    manager = {
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": extension(
            "filters.network.http_connection_manager.v3.HttpConnectionManager",
            _manager(configuration, native=native),
        ),
    }
    return {"name": "callers", "address": socket_address(*listen), "filter_chains": [{"filters": [manager]}]}


def _manager(configuration: Configuration, *, native: bool) -> Message:
    settings = configuration.settings
    identity = own_header_names(settings)
    deciding = natively.filters(settings) if native else ext_authz.filters(settings, identity)
    hosts = natively.virtual_hosts(configuration) if native else ext_authz.virtual_hosts(configuration)
    return {
        "stat_prefix": "callers",
        "codec_type": "HTTP1",
        # Envoy must not normalise paths: it would forward a path other than the one the gateway has decided on.
        "normalize_path": False,
        "merge_slashes": False,
        "path_with_escaped_slashes_action": "REJECT_REQUEST" if native else "KEEP_UNCHANGED",
        "use_remote_address": True,
        "append_x_forwarded_port": True,
        "skip_xff_append": True,  # an early mutation overwrites the field
        "preserve_external_request_id": True,
        "server_header_transformation": "PASS_THROUGH",
        "common_http_protocol_options": {
            "idle_timeout": duration(settings.server.keep_alive),
            "headers_with_underscores_action": "ALLOW",
        },
        "http_protocol_options": {"ignore_http_11_upgrade": [{"exact": "h2c", "ignore_case": True}]},
        "request_headers_timeout": duration(settings.server.header_timeout),
        "stream_idle_timeout": duration(settings.server.body_timeout),
        "max_request_headers_kb": min(_LARGEST_HEAD, max(1, settings.server.max_header_size // _KIB)),
        "upgrade_configs": [{"upgrade_type": "websocket", "enabled": False}],
        "early_header_mutation_extensions": [early_mutations(identity)],
        "route_config": {"name": "policy", "virtual_hosts": hosts},
        "http_filters": [*deciding, http_filter(ROUTER, {"suppress_envoy_headers": True})],
        "access_log": _access_log(settings),
    }


def _access_log(settings: Settings) -> list[Message]:
    if settings.observability.access_log == "off":
        return []
    kept: Message = {"path": "/dev/stdout"}
    if settings.observability.access_log == "json":
        kept["log_format"] = {"json_format": _LOG_FIELDS}
    path = "access_loggers.file.v3.FileAccessLog"
    return [{"name": "envoy.access_loggers.file", "typed_config": extension(path, kept)}]


def _connections(settings: Settings) -> Message:
    """The connection limit. Envoy applies it across all threads."""
    most = {"max_active_downstream_connections": settings.server.max_connections}
    path = "resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig"
    monitor = {"name": "envoy.resource_monitors.global_downstream_max_connections"}
    return {"resource_monitors": [{**monitor, "typed_config": extension(path, most)}]}
