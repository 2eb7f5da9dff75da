"""The ASGI application under those real servers that are installed."""

import importlib.util
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway.app import create_app_from_environment
from tests.support.processes import Configuration, Gateway

_APPLICATION = "gateway.app:create_app_from_environment"
_UVICORN = ["-m", "uvicorn", "--no-proxy-headers", "--log-level", "warning", "--host", "127.0.0.1", "--port", "{port}"]
# The options with which the gateway writes responses without messages.
_QUIET = ["--http", "httptools", "--no-access-log", "--no-server-header", "--no-date-header"]
_HYPERCORN = ["-m", "hypercorn", "--bind", "127.0.0.1:{port}"]

# By name: the module that must be installed, and the arguments of Python.
SERVERS = {
    "uvicorn with httptools": ("httptools", [*_UVICORN, "--http", "httptools", "--factory", _APPLICATION]),
    "uvicorn with h11": ("h11", [*_UVICORN, "--http", "h11", "--factory", _APPLICATION]),
    "uvicorn, mounted": ("httptools", [*_UVICORN, "--http", "httptools", "--factory", f"{__name__}:mounted"]),
    "uvicorn with another class": ("httptools", [*_UVICORN, "--http", f"{__name__}:Other", "--factory", _APPLICATION]),
    "uvicorn, in a middleware": ("httptools", [*_UVICORN, *_QUIET, "--factory", f"{__name__}:marked"]),
    "hypercorn": ("hypercorn", [*_HYPERCORN, f"{_APPLICATION}()"]),
}


class ServedApplication(Gateway):
    """The application under one of SERVERS; `delivers_chunks` is false where it refuses chunked requests."""

    def __init__(self, server: str, configuration: Configuration, folder: Path) -> None:
        super().__init__("asgi", configuration, folder)
        self.server = server
        self.delivers_chunks = server != "uvicorn with another class"

    @property
    def arguments(self) -> list[str]:
        return [word.format(port=self.address[1]) for word in SERVERS[self.server][1]]


def installed(server: str) -> bool:
    return importlib.util.find_spec(SERVERS[server][0]) is not None


class Other(HttpToolsProtocol):
    """A class that the gateway does not replace."""


async def unchanged(request: Request, call_next: RequestResponseEndpoint) -> Response:
    """The function of a BaseHTTPMiddleware that changes nothing."""
    return await call_next(request)


def mounting(gateway: Starlette, prefix: str = "/", *, inner: str = "") -> Starlette:
    """An application that mounts the gateway and runs its lifespan itself, so the server's does not reach it."""

    @asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        async with gateway.router.lifespan_context(gateway):
            yield

    mounted: Any = Mount(prefix, app=gateway)
    if inner:
        mounted = Mount(prefix, routes=[Mount(inner, app=gateway)])
    return Starlette(routes=[mounted], lifespan=lifespan)


def mounted() -> Starlette:
    """An application that mounts the gateway, with a middleware that replaces `receive` and `send`."""
    app = mounting(create_app_from_environment())
    app.add_middleware(BaseHTTPMiddleware, dispatch=unchanged)
    return app


class Marking:
    """A middleware of an embedding program, which marks responses."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send if scope["type"] == "lifespan" else _Marked(send))


class _Marked:
    """A `send` that marks responses. Its other attributes are those of the server's, as with wrapt."""

    def __init__(self, send: Send) -> None:
        self._send = send

    def __getattr__(self, name: str) -> Any:
        return getattr(self._send, name)

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message["headers"], (b"x-marked", b"1")]}
        await self._send(message)


def marked() -> ASGIApp:
    """The gateway in a middleware that its server runs."""
    return Marking(create_app_from_environment())
