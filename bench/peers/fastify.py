"""Fastify with @fastify/http-proxy and @fastify/jwt, a typical choice of Node teams.

Requires `npm ci --prefix bench/peers/fastify_app`; the benchmark installs nothing.
"""

import json
import shutil
from pathlib import Path

from bench.peers.peer import Launch, Peer, Place
from bench.peers.signer import AUDIENCE, ISSUER

APPLICATION = Path(__file__).with_name("fastify_app")


class Fastify(Peer):
    name = "fastify"
    title = "Fastify http-proxy + jwt"
    does = "ES256 with token cache, role, identity headers"
    identity = True

    def missing(self) -> str | None:
        if shutil.which("node") is None:
            return "node"
        installed = (APPLICATION / "node_modules" / "fastify").is_dir()
        return None if installed else "npm ci --prefix bench/peers/fastify_app"

    def version(self) -> str:
        package = APPLICATION / "node_modules" / "fastify" / "package.json"
        return f"fastify {json.loads(package.read_text())['version']}"

    def launch(self, place: Place) -> Launch:
        environment = {
            "NODE_ENV": "production",
            "BENCH_PORT": str(place.port),
            "BENCH_UPSTREAM": place.upstream,
            "BENCH_PUBLIC_KEY": place.signer.public_pem(),
            "BENCH_ISSUER": ISSUER,
            "BENCH_AUDIENCE": AUDIENCE,
        }
        return Launch([shutil.which("node") or "node", str(APPLICATION / "server.js")], environment)
