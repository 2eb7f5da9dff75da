"""All peers, in the order of the report. Each runs with its best settings: keep-alive pools, no log, one worker."""

from bench.peers.caddy import Caddy
from bench.peers.envoy import Envoy, EnvoyJwt, EnvoyJwtLog
from bench.peers.fastify import Fastify
from bench.peers.gateway import (
    GatewayAsgi,
    GatewayJsonLog,
    GatewayManyRoutes,
    GatewayNative,
    GatewayNativeAsgi,
    GatewayNativeJsonLog,
    GatewayNativeManyRoutes,
    GatewayServe,
)
from bench.peers.haproxy import Haproxy, HaproxyEs256, HaproxyHs256
from bench.peers.hello import UvicornDefault, UvicornHello
from bench.peers.naive import NaiveStarlette
from bench.peers.nginx import Nginx
from bench.peers.peer import Peer
from bench.peers.proxy_lib import FastapiProxyLib

ALL: tuple[Peer, ...] = (
    GatewayNative(),
    GatewayServe(),
    GatewayNativeJsonLog(),
    GatewayJsonLog(),
    GatewayNativeManyRoutes(),
    GatewayManyRoutes(),
    GatewayNativeAsgi(),
    GatewayAsgi(),
    EnvoyJwt(),
    EnvoyJwtLog(),
    Envoy(),
    UvicornHello(),
    UvicornDefault(),
    Nginx(),
    Haproxy(),
    HaproxyHs256(),
    HaproxyEs256(),
    Caddy(),
    Fastify(),
    FastapiProxyLib(),
    NaiveStarlette(),
)
