"""The ASGI application under those real servers that are installed."""

import importlib.util
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.routing import Mount

from gateway.app import create_app_from_environment
from tests.support.processes import Configuration, Gateway

_APPLICATION = "gateway.app:create_app_from_environment"
_UVICORN = ["-m", "uvicorn", "--no-proxy-headers", "--log-level", "warning", "--host", "127.0.0.1", "--port", "{port}"]
_HYPERCORN = ["-m", "hypercorn", "--bind", "127.0.0.1:{port}"]

# By name: the module that must be installed, and the arguments of Python.
SERVERS = {
    "uvicorn with httptools": ("httptools", [*_UVICORN, "--http", "httptools", "--factory", _APPLICATION]),
    "uvicorn with h11": ("h11", [*_UVICORN, "--http", "h11", "--factory", _APPLICATION]),
    "uvicorn, mounted": ("httptools", [*_UVICORN, "--http", "httptools", "--factory", f"{__name__}:mounted"]),
    "hypercorn": ("hypercorn", [*_HYPERCORN, f"{_APPLICATION}()"]),
}


class ServedApplication(Gateway):
    """The application under one of SERVERS; `delivers_chunks` is false where it refuses chunked requests."""

    def __init__(self, server: str, configuration: Configuration, folder: Path) -> None:
        super().__init__("asgi", configuration, folder)
        self.server = server
        self.delivers_chunks = server != "uvicorn, mounted"

    @property
    def arguments(self) -> list[str]:
        return [word.format(port=self.address[1]) for word in SERVERS[self.server][1]]


def installed(server: str) -> bool:
    return importlib.util.find_spec(SERVERS[server][0]) is not None


def mounted() -> Starlette:
    """An application that mounts the gateway and runs its lifespan itself, so the server's does not reach it."""
    gateway = create_app_from_environment()

    @asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        async with gateway.router.lifespan_context(gateway):
            yield

    return Starlette(routes=[Mount("/", gateway)], lifespan=lifespan)
