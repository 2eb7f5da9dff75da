"""The HTTP endpoints of the console: one path with three views. They change nothing except the session of the
visitor."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from gateway.analysis.explain import Person, explain
from gateway.analysis.matrix import matrix, named_roles, roles_of
from gateway.analysis.simulate import parse_request_line
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
from gateway.api.console.pages import HEADERS
from gateway.api.console.session import SigningIn, refuse_other_sites
from gateway.errors import Refusal
from gateway.observability.metrics.metrics import Metrics
from gateway.observability.metrics.parser import Reading, reading_of
from gateway.observability.metrics.summary import summary_of
from gateway.policy.loader import Configuration
from gateway.policy.roles import RoleHierarchy
from gateway.settings.reader import InvalidValue

Endpoint = Callable[[Request], Awaitable[Response]]

# Seconds between the two readings of a rate: a view that comes sooner waits, and an older reading is not used.
_LEAST: Final = 1.0
_MOST: Final = 60.0
_RENEWED: Final = 10.0

_MOST_ROLES: Final = 50  # columns of the policy: each cell is a decision


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
        current: Callable[[], Configuration],
        version: Callable[[], str],
    ) -> None:
        self._signing_in = signing_in
        self._metrics = metrics
        self._current = current
        self._version = version
        self._earlier: tuple[float, Reading] | None = None

    async def look(self, request: Request) -> Response:
        who = await self._signing_in.administrator(request)
        if who is None:
            return _page(pages.sign_in_page())
        query = query_fields(request)
        view = query.get("view", "now")
        number = pages.page_number(query.get("page", ""))
        if view == "policy":
            content = await asyncio.to_thread(policy_view, self._current(), number)
        elif view == "explain":
            content = await asyncio.to_thread(explain_view, self._current(), query)
        else:
            view, content = "now", await self._now(number)
        return _page(pages.view_page(view, who[0].email or who[0].id, content))

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

    async def _now(self, number: int) -> str:
        if not self._current().settings.observability.metrics:
            return pages.no_numbers()
        (before_at, before), (after_at, after) = await self._readings()
        version = self._version()
        return await asyncio.to_thread(now_view, before, after, after_at - before_at, version, number)

    async def _readings(self) -> tuple[tuple[float, Reading], tuple[float, Reading]]:
        """Return the reading of the last view, if it is recent enough, and a new one. Otherwise return two new
        readings, a second apart."""
        now = await self._read()
        earlier = self._earlier
        if earlier is None or not _LEAST <= now[0] - earlier[0] <= _MOST:
            earlier = now
            await asyncio.sleep(_LEAST)
            now = await self._read()
        if self._earlier is None or now[0] - self._earlier[0] > _RENEWED:
            self._earlier = now
        return earlier, now

    async def _read(self) -> tuple[float, Reading]:
        state = await self._metrics.state()
        return time.monotonic(), await asyncio.to_thread(reading_of, state)


# ---- the views: pure functions, run in a thread


def now_view(before: Reading, after: Reading, seconds: float, version: str, number: int) -> str:
    """Build the page of the rates between two readings, with one page of the routes."""
    routes = len({labels.route for labels in after.requests})
    part = pages.Part.of(number, routes)
    return pages.now(summary_of(before, after, seconds, part.rows), version, part)


def policy_view(configuration: Configuration, number: int) -> str:
    """Build one page of the routes, with the access of each role."""
    routes = [route for route in configuration.policy.routes if not route.shadow]
    part = pages.Part.of(number, len(routes))
    shown = routes[part.rows]
    roles = roles_of(configuration.settings, routes)
    columns = roles if len(roles) <= _MOST_ROLES else named_roles(shown)[:_MOST_ROLES]
    table = matrix(shown, columns, RoleHierarchy(configuration.settings.roles))
    return pages.policy(table, part, hidden_roles=len(roles) - len(columns))


def explain_view(configuration: Configuration, form: dict[str, str]) -> str:
    """Build the form, and the decision about the request in it."""
    if not form.get("url"):
        return pages.explain(form, "")
    try:
        request = parse_request_line(form.get("method") or "GET", form["url"])
    except InvalidValue as error:
        return pages.explain(form, pages.problem(f"{error.message}{f' ({error.right})' if error.right else ''}"))
    roles = frozenset(role.strip() for role in form.get("roles", "").split(",") if role.strip())
    person = None if form.get("caller") == "anonymous" else Person(form.get("id", ""), roles)
    hierarchy = RoleHierarchy(configuration.settings.roles)
    explanation = explain(configuration.policy, hierarchy, request, person, configuration.shadows)
    return pages.explain(form, pages.explained(explanation))


def console_endpoints(console: Console) -> dict[str, Endpoint]:
    """Return the handlers by the names of their endpoints."""
    return {
        "operations.console": translate_storage_errors(console.look),
        "operations.console.sign": translate_storage_errors(console.sign),
    }


def _page(text: str, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return HTMLResponse(text, status, {**HEADERS, **(headers or {})})
