"""The gateway: native server and ASGI app, with and without access log, with ten and ten thousand routes."""

import contextlib
import http.client
import importlib.util
import json
import sys
from collections.abc import Iterator
from typing import ClassVar

import gateway
from bench.peers.hello import uvicorn
from bench.peers.peer import ROOT, Launch, Peer, Place
from bench.processes import BenchError

EMAIL = "caller@example.com"
PASSWORD = "correct horse battery staple"

CONFIGURATION = """\
server:
  host: 127.0.0.1
  port: %(port)d
  max_body: 0
  max_connections: 20000
storage:
  database: sqlite:///%(directory)s/gateway.db
accounts:
  password: {bcrypt_rounds: 4}
  default_roles: [user]
tokens:
  access_ttl: 12h
upstreams:
  api: {targets: ["%(upstream)s"], max_connections: 4096}
observability:
  access_log: %(access_log)s
routes:
  - path: /api/items/{item_id}
    roles: [user]
    upstream: api
  - path: /api/inspect/{item_id}
    roles: [user]
    upstream: api
  - path: /api/bulk/{size}
    roles: [user]
    upstream: api
  - path: /api/audit/{item_id}
    roles: [auditor]
    upstream: api
  - path: /api/echo/{item_id}
    roles: [user]
    websocket: true
    upstream: api
  - path: /api/events/{item_id}
    roles: [user]
    upstream: api
"""
MEASURED_ROUTES = 6

OTHER_ROUTE = """\
  - path: /api/other%(number)d/{item_id}
    methods: [GET, POST]
    roles: [user]
    upstream: api
"""


class GatewayServe(Peer):
    name = "gateway"
    title = "gateway serve"
    does = "ES256, role, user record, identity headers"
    identity = True
    quick = True
    routes: ClassVar[int] = 10
    access_log: ClassVar[str] = '"off"'

    def missing(self) -> str | None:
        return None if importlib.util.find_spec("gateway.server.serve") else "gateway.server is not built yet"

    def version(self) -> str:
        return gateway.__version__

    def configuration(self, place: Place) -> str:
        """The configuration file. All routes require a role."""
        values = {
            "port": place.port,
            "directory": place.directory,
            "upstream": place.upstream,
            "access_log": self.access_log,
        }
        others = (OTHER_ROUTE % {"number": number} for number in range(self.routes - MEASURED_ROUTES))
        return CONFIGURATION % values + "".join(others)

    def launch(self, place: Place) -> Launch:
        configuration = place.write("gateway.yaml", self.configuration(place))
        command = [sys.executable, "-m", "gateway", "serve", "--config", str(configuration)]
        return Launch(command, {"PYTHONPATH": str(ROOT)})

    def ready(self, place: Place) -> bool:
        with connection(place.port) as link:
            link.request("GET", "/_gateway/ready")
            return link.getresponse().status == 200

    def credential(self, place: Place) -> str:
        """Register, or sign in if the account exists."""
        for path in ("/auth/register", "/auth/login"):
            with connection(place.port) as link:
                body = json.dumps({"email": EMAIL, "password": PASSWORD})
                link.request("POST", path, body, {"Content-Type": "application/json"})
                answer = link.getresponse()
                content = answer.read()
            if answer.status in (200, 201):
                token: str = json.loads(content)["access_token"]
                return token
        raise BenchError(f"could not sign in: {answer.status} {content[:300]!r}")


class GatewayJsonLog(GatewayServe):
    name = "gateway-log"
    title = "gateway serve, JSON access log"
    does = "the same and an access log line"
    quick = False
    access_log = "json"


class GatewayManyRoutes(GatewayServe):
    name = "gateway-10000-routes"
    title = "gateway serve, 10,000 routes"
    does = "the same, out of 10,000 routes"
    routes = 10_000


class GatewayAsgi(GatewayServe):
    name = "gateway-asgi"
    title = "gateway, ASGI face under uvicorn"
    does = "the same by way of ASGI"

    def missing(self) -> str | None:
        return None if importlib.util.find_spec("gateway.app") else "gateway.app is not built yet"

    def launch(self, place: Place) -> Launch:
        configuration = place.write("gateway.yaml", self.configuration(place))
        command = uvicorn(
            "gateway.app:create_app_from_environment",
            place,
            "--factory",
            "--no-server-header",
            "--no-date-header",
        )
        return Launch(command, {"PYTHONPATH": str(ROOT), "GATEWAY_CONFIG": str(configuration)})


@contextlib.contextmanager
def connection(port: int, *, timeout: float = 10.0) -> Iterator[http.client.HTTPConnection]:
    """A loopback connection that is closed after the block."""
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        yield link
    finally:
        link.close()
