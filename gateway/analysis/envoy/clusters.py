"""Upstreams as Envoy clusters."""

import ssl
from pathlib import Path

from gateway.analysis.envoy.messages import Message, duration, extension, is_address, socket_address
from gateway.settings.model import TlsSettings, UpstreamSettings
from gateway.settings.target_address import TargetAddress

GATEWAY = "gateway"
"""The cluster of the gateway itself."""
DECIDES = "gateway-decides"
"""The cluster for decisions: the gateway, on the port that serves operations."""

_PLENTY = 1_000_000
_GATEWAY_FAILURES = frozenset((502, 503, 504))


def cluster_name(upstream: str) -> str:
    return f"upstream-{upstream}"


def gateway_cluster(name: str, host: str, port: int) -> Message:
    """The gateway, for decisions and for its built-in endpoints."""
    limits = {"max_connections": _PLENTY, "max_pending_requests": _PLENTY, "max_requests": _PLENTY}
    return {
        **_addressed(name, [TargetAddress("http", host, port, f"{host}:{port}")]),
        "connect_timeout": "3s",
        "circuit_breakers": {"thresholds": [limits]},
    }


def upstream_cluster(upstream: UpstreamSettings, health_host: str | None) -> Message:
    """One upstream: targets, load balancing, health checks and outlier detection. `health_host` is the Host of
    health checks, None for that of the targets."""
    targets = [TargetAddress.of(target) for target in upstream.targets]
    is_tls = targets[0].scheme == "https"
    cluster = {
        **_addressed(cluster_name(upstream.name), targets),
        "connect_timeout": duration(upstream.connect_timeout),
        "lb_policy": "LEAST_REQUEST" if upstream.balance == "least_requests" else "ROUND_ROBIN",
        # Unhealthy targets get no requests, even if all are unhealthy: the response is 503 then.
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
        "circuit_breakers": _limits(upstream),
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": extension(
                "upstreams.http.v3.HttpProtocolOptions",
                {
                    "explicit_http_config": {"http_protocol_options": {}},
                    "common_http_protocol_options": {
                        "idle_timeout": duration(upstream.keep_alive),
                        "max_response_headers_kb": max(1, upstream.max_head_size // 1024),
                    },
                },
            )
        },
    }
    if upstream.health is not None:
        cluster["health_checks"] = [_health(upstream, health_host)]
    if upstream.eject is not None:
        cluster["outlier_detection"] = _ejection(upstream)
    if is_tls:
        cluster["transport_socket"] = _tls(upstream.tls, targets[0].host)
    return cluster


def system_authorities() -> str | None:
    """The system's CA bundle, if one exists."""
    return ssl.get_default_verify_paths().cafile


def _addressed(name: str, targets: list[TargetAddress]) -> Message:
    endpoints = [{"endpoint": {"address": _address(target), "hostname": target.authority}} for target in targets]
    return {
        "name": name,
        "type": "STATIC" if all(target.socket or is_address(target.host) for target in targets) else "STRICT_DNS",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]},
    }


def _address(target: TargetAddress) -> Message:
    if target.socket:
        return {"pipe": {"path": str(Path(target.socket).absolute())}}
    return socket_address(target.host, target.port)


def _limits(upstream: UpstreamSettings) -> Message:
    retries = {"budget_percent": {"value": upstream.retry_budget * 100}, "min_retry_concurrency": 20}
    return {
        "thresholds": [
            {
                "max_connections": min(_PLENTY, upstream.max_connections * len(upstream.targets)),
                "max_pending_requests": _PLENTY,
                "max_requests": _PLENTY,
                "retry_budget": retries,
            }
        ],
        "per_host_thresholds": [{"max_connections": upstream.max_connections}],
    }


def _health(upstream: UpstreamSettings, host: str | None) -> Message:
    health = upstream.health
    assert health is not None
    return {
        "interval": duration(health.interval),
        "timeout": duration(health.timeout),
        "unhealthy_threshold": health.fall,
        "healthy_threshold": health.rise,
        "http_health_check": {"path": health.path} | ({} if host is None else {"host": host}),
    }


def _ejection(upstream: UpstreamSettings) -> Message:
    eject = upstream.eject
    assert eject is not None
    ejection = {
        "split_external_local_origin_errors": True,
        "consecutive_local_origin_failure": eject.failures,
        "enforcing_consecutive_local_origin_failure": 100,
        "consecutive_gateway_failure": eject.failures,
        "enforcing_consecutive_gateway_failure": 100 if eject.statuses else 0,
        "enforcing_consecutive_5xx": 0,
        "enforcing_success_rate": 0,
        "enforcing_local_origin_success_rate": 0,
        "base_ejection_time": duration(eject.for_),
        "max_ejection_time": duration(eject.for_),
        # At most half of the targets, so that ejections never reach the gateway's panic threshold.
        "max_ejection_percent": 50,
    }
    if not eject.statuses <= _GATEWAY_FAILURES:
        ejection |= {"consecutive_5xx": eject.failures, "enforcing_consecutive_5xx": 100}
    return ejection


def _tls(tls: TlsSettings, host: str) -> Message:
    name = tls.server_name or host
    common: Message = {}
    if tls.verify:
        kind = "IP_ADDRESS" if is_address(name) else "DNS"
        common["validation_context"] = {
            "trusted_ca": {"filename": tls.ca or system_authorities()},
            "match_typed_subject_alt_names": [{"san_type": kind, "matcher": {"exact": name}}],
        }
    if tls.client_cert is not None:
        key = tls.client_key or tls.client_cert
        common["tls_certificates"] = [
            {"certificate_chain": {"filename": tls.client_cert}, "private_key": {"filename": key}}
        ]
    context: Message = {"common_tls_context": common}
    if not is_address(name):
        context["sni"] = name
    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": extension("transport_sockets.tls.v3.UpstreamTlsContext", context),
    }
