"""uvicorn's hello world: the cost of any response under uvicorn, without proxying."""

import sys
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from importlib import metadata
from typing import Any, ClassVar

from bench.peers.peer import ROOT, Launch, Peer, Place
from bench.upstream import BODY

UVICORN = (
    "--http",
    "httptools",
    "--loop",
    "uvloop",
    "--no-access-log",
    "--no-proxy-headers",
    "--log-level",
    "warning",
)

START = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"application/json"), (b"content-length", str(len(BODY)).encode())],
}


async def app(
    scope: MutableMapping[str, Any],
    receive: Callable[[], Awaitable[MutableMapping[str, Any]]],
    send: Callable[[MutableMapping[str, Any]], Awaitable[None]],
) -> None:
    """The smallest ASGI application that answers with the upstream's body."""
    if scope["type"] == "http":
        await send(START)
        await send({"type": "http.response.body", "body": BODY})


def uvicorn(application: str, place: Place, *options: str) -> list[str]:
    """The command that serves an ASGI application with uvicorn's fastest settings."""
    return [sys.executable, "-m", "uvicorn", application, "--port", str(place.port), *UVICORN, *options]


class UvicornHello(Peer):
    name = "uvicorn-hello"
    title = "uvicorn hello world"
    does = "answers by itself, no proxying"
    proxies = False
    quick = True
    traffic: ClassVar[Sequence[str]] = ("varying", "repeated")

    def version(self) -> str:
        return metadata.version("uvicorn")

    def launch(self, place: Place) -> Launch:
        return Launch(uvicorn("bench.peers.hello:app", place, "--lifespan", "off"), {"PYTHONPATH": str(ROOT)})


class UvicornDefault(UvicornHello):
    name = "uvicorn-default"
    title = "uvicorn hello world, as it comes"
    does = "answers by itself, with uvicorn's proxy headers on, which is its default"
    quick = False
    traffic = ("varying",)

    def launch(self, place: Place) -> Launch:
        launch = super().launch(place)
        return Launch([*launch.command, "--proxy-headers"], launch.environment)
