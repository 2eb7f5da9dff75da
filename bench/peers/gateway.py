"""The gateway, interpreted and native: its server and the ASGI face, with and without access log, with ten and ten
thousand routes."""

import contextlib
import http.client
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import gateway
from bench.peers.hello import uvicorn
from bench.peers.peer import ROOT, Launch, Peer, Place
from bench.processes import BenchError
from hatch_build import missing_tool

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


NATIVE_FOLDER = ROOT / "build" / "native"


def compile_native() -> None:
    """Compile a copy of the checkout for the native peers, unless it is of the same source. Raises BenchError."""
    command = [sys.executable, str(ROOT / "hatch_build.py"), "--copy", str(NATIVE_FOLDER)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchError(f"the native build failed:\n{(done.stdout + done.stderr)[-2000:]}")


class GatewayServe(Peer):
    name = "gateway"
    title = "gateway serve, interpreted"
    does = "ES256, role, user record, identity headers"
    identity = True
    quick = True
    traffic: ClassVar[Sequence[str]] = ("varying", "repeated", "refused")
    package: ClassVar[Path] = ROOT
    """The folder of the package that runs."""
    routes: ClassVar[int] = 10
    access_log: ClassVar[str] = '"off"'

    def missing(self) -> str | None:
        return None if gateway.build() == "interpreted" else "the source, because the checkout is compiled in place"

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
        return Launch(command, {"PYTHONPATH": str(self.package)})

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
    title = "gateway serve, interpreted, JSON access log"
    does = "the same and an access log line"
    quick = False
    traffic = ("varying",)
    access_log = "json"


class GatewayManyRoutes(GatewayServe):
    name = "gateway-10000-routes"
    title = "gateway serve, interpreted, 10,000 routes"
    does = "the same, out of 10,000 routes"
    quick = False
    traffic = ("varying",)
    routes = 10_000


class GatewayAsgi(GatewayServe):
    name = "gateway-asgi"
    title = "gateway, ASGI face under uvicorn, interpreted"
    does = "the same by way of ASGI"
    quick = False
    traffic = ("varying",)

    def launch(self, place: Place) -> Launch:
        configuration = place.write("gateway.yaml", self.configuration(place))
        command = uvicorn(
            "gateway.app:create_app_from_environment",
            place,
            "--factory",
            "--no-server-header",
            "--no-date-header",
        )
        return Launch(command, {"PYTHONPATH": str(self.package), "GATEWAY_CONFIG": str(configuration)})


class Native(GatewayServe):
    """The same, compiled by mypyc into a folder of its own."""

    package = NATIVE_FOLDER

    def missing(self) -> str | None:
        return missing_tool()


class GatewayNative(Native):
    name = "gateway-native"
    title = "gateway serve, native"


class GatewayNativeJsonLog(Native, GatewayJsonLog):
    name = "gateway-native-log"
    title = "gateway serve, native, JSON access log"


class GatewayNativeManyRoutes(Native, GatewayManyRoutes):
    name = "gateway-native-10000-routes"
    title = "gateway serve, native, 10,000 routes"


class GatewayNativeAsgi(Native, GatewayAsgi):
    name = "gateway-native-asgi"
    title = "gateway, ASGI face under uvicorn, native"


@contextlib.contextmanager
def connection(port: int, *, timeout: float = 10.0) -> Iterator[http.client.HTTPConnection]:
    """A loopback connection that is closed after the block."""
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        yield link
    finally:
        link.close()
