"""The gateway behind a proxy that asks it for decisions or runs its exported policy. Both processes are counted."""

import shlex
import sys
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from bench.machine import first_line
from bench.peers.caddy import find_program
from bench.peers.gateway import GatewayServe
from bench.peers.haproxy import find_haproxy
from bench.peers.peer import ROOT, Launch, Place
from bench.processes import free_port
from bench.snippets import GATEWAY, LISTENS, UPSTREAM, caddy_file, nginx_file, snippet
from bench.upstream import find_nginx

TRUSTING = "  trusted_proxies: [127.0.0.1/32]\nstorage:"


class Front(GatewayServe):
    """A proxy in front of `gateway serve`. One shell starts both, so that both are measured and stopped."""

    does = "the gateway decides, asked for each request"
    program: ClassVar[str]

    def missing(self) -> str | None:
        return super().missing() or (None if self.binary() else self.program)

    def binary(self) -> str | None:
        return find_program(self.program)

    def version(self) -> str:
        return first_line([self.binary() or self.program, "version" if self.program == "caddy" else "-v"])

    def launch(self, place: Place) -> Launch:
        behind = Place(place.directory, free_port(), place.upstream_port, place.signer)
        text = self.configuration(behind).replace("storage:", TRUSTING, 1)
        text = text.replace("access_ttl: 12h", "access_ttl: 12h\n  include_roles: true")
        configuration = place.write("gateway.yaml", text)
        gateway = [sys.executable, "-m", "gateway", "serve", "--config", str(configuration)]
        ports = {LISTENS: place.port, GATEWAY: behind.port, UPSTREAM: place.upstream_port}
        front = self.front(place, configuration, ports)
        script = f"{shlex.join(gateway)} & {front} & wait"
        environment = {"PYTHONPATH": str(ROOT), "GOMAXPROCS": "1", "HOME": str(place.directory)}
        return Launch(["/bin/sh", "-c", script], environment)

    @abstractmethod
    def front(self, place: Place, configuration: Path, ports: dict[int, int]) -> str:
        """The shell command that starts the proxy in front."""

    def command(self, *words: str | Path) -> str:
        return shlex.join([self.binary() or self.program, *map(str, words)])


class EnvoyVerify(Front):
    name = "envoy-verify"
    title = "Envoy, `gateway export envoy`"
    program = "envoy"
    options: ClassVar[Sequence[str]] = ()

    def version(self) -> str:
        return first_line([self.binary() or "envoy", "--version"]).split("/")[-4]

    def front(self, place: Place, configuration: Path, ports: dict[int, int]) -> str:
        exported = place.directory / "envoy.yaml"
        export = [sys.executable, "-m", "gateway", "export", "envoy", "--config", str(configuration), *self.options]
        export += ["--listen", f"127.0.0.1:{place.port}"]
        options = ["--concurrency", "1", "--disable-hot-restart", "--log-level", "error"]
        run = self.command("-c", exported, *options)
        return f"({shlex.join(export)} > {shlex.quote(str(exported))} && exec {run})"


class EnvoyNative(EnvoyVerify):
    name = "envoy-native"
    title = "Envoy, `gateway export envoy --native`"
    does = "Envoy decides by the token: no lookup, no revocation"
    options: ClassVar[Sequence[str]] = ("--native",)


class NginxVerify(Front):
    name = "nginx-verify"
    title = "nginx, `auth_request`"
    program = "nginx"

    def binary(self) -> str | None:
        return find_nginx()

    def front(self, place: Place, configuration: Path, ports: dict[int, int]) -> str:
        file = place.write("nginx.conf", nginx_file(place.directory, ports))
        return self.command("-p", place.directory, "-e", place.directory / "nginx.log", "-c", file)


class CaddyVerify(Front):
    name = "caddy-verify"
    title = "Caddy, `reverse_proxy` asking first"
    program = "caddy"

    def front(self, place: Place, configuration: Path, ports: dict[int, int]) -> str:
        file = place.write("Caddyfile", caddy_file(ports))
        return self.command("run", "--adapter", "caddyfile", "--config", file)


class HaproxyVerify(Front):
    name = "haproxy-verify"
    title = "HAProxy, Lua asking first"
    program = "haproxy"

    def binary(self) -> str | None:
        return find_haproxy()

    def front(self, place: Place, configuration: Path, ports: dict[int, int]) -> str:
        place.write("verify.lua", snippet("lua", ports))
        file = place.write("haproxy.cfg", snippet("haproxy", ports).replace("global\n", "global\n    nbthread 1\n", 1))
        return self.command("-db", "-f", file)


FRONTS = (EnvoyVerify(), EnvoyNative(), NginxVerify(), HaproxyVerify(), CaddyVerify())
