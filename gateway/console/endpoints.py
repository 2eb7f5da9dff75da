"""The HTTP face of the console: one path, three views. Nothing here can change anything but one's own signing in."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from gateway.accounts.reading import FORM, form_fields, media_type, query_fields, read_body
from gateway.accounts.requests import note_refusal, refusing
from gateway.console import pages
from gateway.console.signing_in import SigningIn, refuse_other_sites
from gateway.console.style import HEADERS
from gateway.described import Answer, Operation, Operations, exactly
from gateway.errors import Refusal
from gateway.operations.metrics import Metrics
from gateway.operations.reading import Samples, samples_of
from gateway.operations.summary import Summary, summary_of
from gateway.policy.explain import Person, explain
from gateway.policy.hierarchy import RoleHierarchy
from gateway.policy.loading import Configuration
from gateway.policy.matrix import matrix, roles_of
from gateway.policy.version import policy_version
from gateway.policy.written import written_request
from gateway.settings.reader import Unacceptable

Endpoint = Callable[[Request], Awaitable[Response]]

# Seconds between the two readings that rates are made of: a look that comes sooner waits, and older ones are too old.
_LEAST: Final = 1.0
_MOST: Final = 60.0
_RENEWED: Final = 10.0

_PAGE: Final = Answer("HTML.", {"type": "string"}, "text/html")
_NOT_SIGNED_IN: Final = Answer("The page again, with the reason in words.", {"type": "string"}, "text/html")
_SIGN: Final = exactly(
    {"action": {"enum": ["sign-in", "sign-out"]}, "username": {"type": "string"}, "password": {"type": "string"}}
)
OPERATIONS: Final[Operations] = {
    "operations.console": Operation(
        summary="Look at the console",
        text="For browsers: a page to sign in on, or the console of an administrator who has signed in there.",
        answers={200: _PAGE},
        refusals=("storage_unavailable",),
    ),
    "operations.console.sign": Operation(
        summary="Sign in to the console, or out",
        text="The form of that page. What it sets is a cookie for this path alone.",
        answers={303: Answer("Done."), **dict.fromkeys((401, 403, 422, 429, 503), _NOT_SIGNED_IN)},
        bodies={FORM: lambda _: _SIGN},
        refusals=("origin_not_allowed", "storage_unavailable"),
    ),
}


class Console:
    """`current` is the configuration in force."""

    def __init__(self, signing_in: SigningIn, metrics: Metrics, *, current: Callable[[], Configuration]) -> None:
        self._signing_in = signing_in
        self._metrics = metrics
        self._current = current
        self._earlier: tuple[float, Samples] | None = None

    async def look(self, request: Request) -> Response:
        """GET"""
        who = await self._signing_in.administrator(request)
        if who is None:
            return _page(pages.sign_in_page())
        asked = query_fields(request)
        view = asked.get("view", "now")
        if view == "policy":
            content = self._policy()
        elif view == "explain":
            content = self._explain(asked)
        else:
            view, content = "now", await self._now()
        return _page(pages.view_page(view, who[0].email or who[0].id, content))

    async def sign(self, request: Request) -> Response:
        """POST"""
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
            # A person reads it: in words and with the form, not as a document for programs.
            headers = {"retry-after": str(refusal.retry_after)} if refusal.retry_after is not None else {}
            if refusal.status == 401:
                headers["www-authenticate"] = "Bearer"
            return _page(pages.sign_in_page(refusal.detail), refusal.status, headers)
        return RedirectResponse(pages.PATH, 303, {**HEADERS, "set-cookie": cookie})

    # ---- the views

    async def _now(self) -> str:
        configuration = self._current()
        if not configuration.settings.observability.metrics:
            return pages.no_numbers()
        return pages.now(await self._summary(), policy_version(configuration.settings))

    async def _summary(self) -> Summary:
        """What happened since the last look, if that is not too long ago, else within the next second."""
        at, samples = await self._read()
        earlier = self._earlier
        if earlier is None or not _LEAST <= at - earlier[0] <= _MOST:
            earlier = at, samples
            await asyncio.sleep(_LEAST)
            at, samples = await self._read()
        if self._earlier is None or at - self._earlier[0] > _RENEWED:
            self._earlier = at, samples
        return await asyncio.to_thread(summary_of, earlier[1], samples, at - earlier[0])

    async def _read(self) -> tuple[float, Samples]:
        page = await self._metrics.page()
        return time.monotonic(), await asyncio.to_thread(samples_of, page.decode())

    def _policy(self) -> str:
        configuration = self._current()
        routes = [route for route in configuration.policy.routes if not route.shadow]
        roles = roles_of(configuration.settings, routes)
        return pages.policy(matrix(routes, roles, RoleHierarchy(configuration.settings.roles)))

    def _explain(self, asked: dict[str, str]) -> str:
        if not asked.get("url"):
            return pages.explain(asked, "")
        try:
            request = written_request(asked.get("method") or "GET", asked["url"])
        except Unacceptable as error:
            return pages.explain(asked, pages.problem(f"{error.message}{f' ({error.right})' if error.right else ''}"))
        configuration = self._current()
        roles = frozenset(role.strip() for role in asked.get("roles", "").split(",") if role.strip())
        person = None if asked.get("caller") == "anonymous" else Person(asked.get("id", ""), roles)
        explanation = explain(configuration.policy, RoleHierarchy(configuration.settings.roles), request, person)
        return pages.explain(asked, pages.explained(explanation))


def console_endpoints(console: Console) -> dict[str, Endpoint]:
    """The handlers by the names of their endpoints."""
    return {"operations.console": refusing(console.look), "operations.console.sign": refusing(console.sign)}


def _page(text: str, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return HTMLResponse(text, status, {**HEADERS, **(headers or {})})
