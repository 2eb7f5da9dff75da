"""A target of an upstream, and the limits that all of its targets share."""

import ssl
from dataclasses import dataclass

from gateway.settings.model import UpstreamSettings
from gateway.settings.target_address import TargetAddress


@dataclass(frozen=True, slots=True)
class UpstreamLimits:
    """Limits of one upstream: times in seconds, sizes in bytes.

    `idle_timeout` is the time between bytes of a body, `keep_alive` the time between two requests on a connection. A
    response with one of `failure_statuses` counts against its target.
    """

    connect_timeout: float
    response_timeout: float | None
    idle_timeout: float
    max_head_size: int
    max_connections: int
    keep_alive: float
    retries: int
    failure_statuses: frozenset[int]


@dataclass(frozen=True, slots=True)
class Target:
    """A server to send requests to. `authority` is the value of its Host field, `host_line` the complete field.
    `server_name` is the name in its certificate, None without TLS. `socket` is the path of a Unix socket, "" for
    TCP."""

    host: str
    port: int
    tls: ssl.SSLContext | None
    server_name: str | None
    authority: str
    socket: str = ""

    @property
    def scheme(self) -> bytes:
        return b"http" if self.tls is None else b"https"

    @property
    def host_line(self) -> bytes:
        return b"Host: %b\r\n" % self.authority.encode("ascii")

    def __str__(self) -> str:
        """Return the address for logs, without the base path."""
        if self.socket:
            return f"unix:{self.socket}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}"


def limits_of(upstream: UpstreamSettings) -> UpstreamLimits:
    """Return the configured limits of an upstream."""
    return UpstreamLimits(
        connect_timeout=upstream.connect_timeout,
        response_timeout=upstream.response_timeout,
        idle_timeout=upstream.idle_timeout,
        max_head_size=upstream.max_head_size,
        max_connections=upstream.max_connections,
        keep_alive=upstream.keep_alive,
        retries=upstream.retries,
        failure_statuses=frozenset() if upstream.eject is None else upstream.eject.statuses,
    )


def target_of(url: str, upstream: UpstreamSettings, tls: ssl.SSLContext | None) -> Target:
    """Return the target for an address. `tls` is the context for https."""
    address = TargetAddress.of(url)
    secure = address.scheme == "https"
    return Target(
        host=address.host,
        port=address.port,
        tls=tls if secure else None,
        server_name=(upstream.tls.server_name or address.host) if secure else None,
        authority=address.authority,
        socket=address.socket,
    )
