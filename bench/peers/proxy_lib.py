"""fastapi-proxy-lib as in its documentation, with a sufficiently large client pool."""

import importlib.util
import os
from importlib import metadata
from typing import Any

from bench.peers.hello import uvicorn
from bench.peers.peer import ROOT, Launch, Peer, Place


def create_app() -> Any:
    import httpx
    from fastapi_proxy_lib.fastapi.app import reverse_http_app

    client = httpx.AsyncClient(limits=httpx.Limits(max_connections=256, max_keepalive_connections=256))
    return reverse_http_app(client, base_url=os.environ["BENCH_UPSTREAM"] + "/")


class FastapiProxyLib(Peer):
    name = "fastapi-proxy-lib"
    title = "fastapi-proxy-lib"
    does = "plain proxying"
    slow = True
    quick = True

    def missing(self) -> str | None:
        packages = ("fastapi", "fastapi_proxy_lib")
        return None if all(importlib.util.find_spec(name) for name in packages) else "fastapi-proxy-lib[standard]"

    def version(self) -> str:
        return metadata.version("fastapi-proxy-lib")

    def launch(self, place: Place) -> Launch:
        environment = {"PYTHONPATH": str(ROOT), "BENCH_UPSTREAM": place.upstream}
        return Launch(uvicorn("bench.peers.proxy_lib:create_app", place, "--factory"), environment)
