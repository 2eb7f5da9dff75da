"""Endpoints for the OpenAPI document and its HTML page. The first request builds it in a thread, which takes 12 ms."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from functools import cache

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from gateway.api.openapi.document import Schema, document
from gateway.policy.route import Route
from gateway.settings.model import Settings

Endpoint = Callable[[Request], Awaitable[Response]]


def openapi_endpoints(settings: Callable[[], Settings], routes: tuple[Route, ...]) -> dict[str, Endpoint]:
    """The handlers by endpoint name. `routes` are the built-in routes, `settings` returns the active settings."""

    @cache
    def described() -> Schema:
        return document(settings(), routes)

    @cache
    def as_json() -> bytes:
        return json.dumps(described(), ensure_ascii=False, separators=(",", ":")).encode()

    async def openapi(_: Request) -> Response:
        return Response(await asyncio.to_thread(as_json), media_type="application/json")

    @cache
    def as_page() -> tuple[str, Mapping[str, str]]:
        # Imports a megabyte of HTML entities that most processes never need.
        from gateway.api.openapi.page import HEADERS, page

        return page(described()), HEADERS

    async def docs(_: Request) -> Response:
        text, headers = await asyncio.to_thread(as_page)
        return HTMLResponse(text, headers=dict(headers))

    return {"operations.openapi": openapi, "operations.docs": docs}
