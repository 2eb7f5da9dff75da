"""The HTTP endpoints of the console: one path with several views. They change nothing except the session of the
visitor."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from gateway.api.body import (
    FORM,
    form_fields,
    media_type,
    note_refusal,
    query_fields,
    read_body,
    translate_storage_errors,
)
from gateway.api.console import pages
from gateway.api.console.explain_page import explain_view
from gateway.api.console.matrix_page import MOST_COMPARED, FileOnDisk, matrix_view, problems_of
from gateway.api.console.memory import OWN_ROUTES, ConsoleMemory
from gateway.api.console.overview import no_numbers, overview
from gateway.api.console.pages import HEADERS
from gateway.api.console.route_list import Readings, RouteQuery, route_list
from gateway.api.console.route_page import find_route, missing_page, policy_test_file, route_names, route_page
from gateway.api.console.session import SigningIn, refuse_other_sites
from gateway.errors import CannotStart, ConfigurationError, Refusal
from gateway.observability.metrics.metrics import Metrics
from gateway.observability.metrics.parser import Reading, reading_of
from gateway.policy.loader import Configuration, load_configuration

Endpoint = Callable[[Request], Awaitable[Response]]

# Seconds between the two readings of a rate: a view that comes sooner waits, and an older reading is not used.
_LEAST: Final = 1.0
_MOST: Final = 60.0
_RENEWED: Final = 10.0

_LATEST_REFUSALS: Final = 100
_LIVE: Final = {"refresh": "10"}  # a header, and only on request: WCAG 2.2.2


class Console:
    """`current` returns the configuration in force, `version` the version of its policy.

    Views are built in threads. Each has a bounded number of rows, because a thread that runs Python delays the event
    loop.
    """

    def __init__(
        self,
        signing_in: SigningIn,
        metrics: Metrics,
        *,
        memory: ConsoleMemory,
        current: Callable[[], Configuration],
        version: Callable[[], str],
    ) -> None:
        self._signing_in = signing_in
        self._metrics = metrics
        self._history, self._refusals = memory
        self._current = current
        self._version = version
        self._earlier: tuple[float, Reading] | None = None
        self._reading_the_file = asyncio.Lock()

    async def look(self, request: Request) -> Response:
        who = await self._signing_in.administrator(request)
        if who is None:
            return _page(pages.sign_in_page())
        query = query_fields(request)
        view, name = query.get("view", ""), who[0].email or who[0].id
        if view == "route":
            return await self._route(query.get("name", ""), name)
        number = pages.page_number(query.get("page", ""))
        headers: dict[str, str] = {}
        if view == "routes":
            content = await asyncio.to_thread(
                route_list, self._current().policy, await self._readings(), RouteQuery.of(query)
            )
        elif view == "matrix":
            disk = await self._file_on_disk() if query.get("compare") else None
            text = query.get("q", "").strip()[:200]
            content = await asyncio.to_thread(matrix_view, self._current(), number, text, disk)
        elif view == "explain":
            content = await asyncio.to_thread(explain_view, self._current(), query)
        else:
            view, content = "overview", await self._overview(is_live=bool(query.get("live")))
            headers = _LIVE if query.get("live") else {}
        return _page(pages.view_page(view, name, content), headers=headers)

    async def sign(self, request: Request) -> Response:
        media_type(request, FORM)
        refuse_other_sites(request)
        form = form_fields(await read_body(request))
        action = form.pop("action", "")
        try:
            if action == "sign-out":
                cookie = await self._signing_in.sign_out(request)
            else:
                cookie = await self._signing_in.sign_in(request, form)
        except Refusal as refusal:
            note_refusal(request, refusal)
            # A person reads the answer: send the form with a sentence, and no problem document.
            headers = {"retry-after": str(refusal.retry_after)} if refusal.retry_after is not None else {}
            if refusal.status == 401:
                headers["www-authenticate"] = "Bearer"
            return _page(pages.sign_in_page(refusal.detail), refusal.status, headers)
        return RedirectResponse(pages.PATH, 303, {**HEADERS, "set-cookie": cookie})

    async def _overview(self, *, is_live: bool) -> str:
        configuration = self._current()
        settings = configuration.settings
        if not settings.observability.metrics:
            return no_numbers()
        report = await self._history.report()
        checked = {name for name, upstream in settings.upstreams.items() if upstream.health is not None}
        latest = self._refusals.latest(_LATEST_REFUSALS)
        routes = route_names(configuration, {each.route for each in latest})
        return await asyncio.to_thread(overview, report, self._version(), checked, latest, routes, is_live=is_live)

    async def _route(self, name: str, who: str) -> Response:
        configuration = self._current()
        route = find_route(configuration, name)
        if route is None:
            return _page(pages.view_page("routes", who, missing_page(name), "No such route"), 404)
        tests = await asyncio.to_thread(policy_test_file, configuration)
        readings, refusals = await self._readings(), self._refusals.of(name)
        content = await asyncio.to_thread(route_page, configuration, route, readings, refusals, tests)
        return _page(pages.view_page("routes", who, content, name))

    async def _file_on_disk(self) -> FileOnDisk:
        """Read the configuration file again. A thread compiles it, for one visitor at a time."""
        configuration = self._current()
        name = configuration.settings.places.file
        if len(configuration.policy.routes) > MOST_COMPARED:
            return FileOnDisk(name, None, f"With more than {MOST_COMPARED} routes, use 'gateway diff' instead.")
        async with self._reading_the_file:
            try:
                return FileOnDisk(name, await asyncio.to_thread(load_configuration, Path(name)))
            except (ConfigurationError, CannotStart) as error:
                return problems_of(name, error)

    async def _readings(self) -> Readings:
        """Return the reading of the last view, if it is recent enough, and a new one. Otherwise return two new
        readings, a second apart."""
        if not self._current().settings.observability.metrics:
            return Readings(None, None, 0.0)
        now = await self._read()
        earlier = self._earlier
        if earlier is None or not _LEAST <= now[0] - earlier[0] <= _MOST:
            earlier = now
            await asyncio.sleep(_LEAST)
            now = await self._read()
        if self._earlier is None or now[0] - self._earlier[0] > _RENEWED:
            self._earlier = now
        return Readings(earlier[1], now[1], now[0] - earlier[0])

    async def _read(self) -> tuple[float, Reading]:
        state = await self._metrics.state()
        return time.monotonic(), await asyncio.to_thread(reading_of, state)


def console_endpoints(console: Console) -> dict[str, Endpoint]:
    """Return the handlers by the names of their endpoints."""
    look, sign = map(translate_storage_errors, (console.look, console.sign))
    return dict(zip(OWN_ROUTES, (look, sign), strict=True))


def _page(text: str, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return HTMLResponse(text, status, {**HEADERS, **(headers or {})})
