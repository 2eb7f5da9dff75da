"""ASGI middleware for upstreams behind the gateway: no request comes through without a good assertion."""

from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any

from gateway.errors import Refusal
from gateway.responses import Field, problem_body, problem_fields
from gateway.upstream.verifier import AssertionVerifier, Identity
from gateway.wire.request_ids import acceptable_request_id

# As in any ASGI framework; none has to be installed for this.
Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class IdentityMiddleware:
    """Puts a verified Identity into `request.state.identity`, and answers 401 where there is none.

    `jwks_url`, `audience`, `issuer`, `leeway` and `insecure` are those of AssertionVerifier. `header` is what
    `identity.assertion.header` says. Without `required`, a request without an assertion has the identity None: for
    routes of the gateway with `auth: optional` or `none`. Paths in `public` are not looked at and have None too: those
    of health checks, which nobody calls in whose name anything could be said.
    """

    def __init__(
        self,
        app: App,
        *,
        jwks_url: str,
        audience: str,
        issuer: str = "gateway",
        header: str = "X-Identity-Token",
        required: bool = True,
        public: Collection[str] = (),
        leeway: float = 5.0,
        insecure: bool = False,
    ) -> None:
        self._app = app
        self._verifier = AssertionVerifier(jwks_url, audience=audience, issuer=issuer, leeway=leeway, insecure=insecure)
        self._header = header.lower().encode("ascii")
        self._required = required
        self._public = frozenset(public)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI application."""
        if scope["type"] not in ("http", "websocket"):  # lifespan
            await self._app(scope, receive, send)
            return
        try:
            identity = await self._identity(scope)
        except Refusal as refusal:
            await _refuse(refusal, scope, receive, send)
            return
        # A copy: what is put into the state that all requests share would be seen by all of them.
        state = {**scope.get("state", {}), "identity": identity}
        await self._app({**scope, "state": state}, receive, send)

    async def _identity(self, scope: Scope) -> Identity | None:
        if scope["path"] in self._public:
            return None
        assertions = [value for name, value in scope["headers"] if name.lower() == self._header]
        if not assertions:
            if self._required:
                raise Refusal("token_missing", "no assertion")
            return None
        if len(assertions) > 1:
            raise Refusal("token_invalid", "several assertions", presented=True)
        return await self._verifier.verify(assertions[0])


async def _refuse(refusal: Refusal, scope: Scope, receive: Receive, send: Send) -> None:
    request_id = _request_id(scope)
    body = problem_body(refusal, request_id)
    fields: list[Field] = [*problem_fields(refusal, request_id), (b"content-length", b"%d" % len(body))]
    kind = "http.response"
    if scope["type"] == "websocket":
        await receive()  # websocket.connect: the handshake is answered, not the connection closed
        if "websocket.http.response" not in scope.get("extensions", {}):
            await send({"type": "websocket.close", "code": 1008})  # which the server makes a 403 of
            return
        kind = "websocket.http.response"
    await send({"type": f"{kind}.start", "status": refusal.status, "headers": fields})
    await send({"type": f"{kind}.body", "body": body})


def _request_id(scope: Scope) -> bytes:
    """The id that the gateway has given the request."""
    given = next((value for name, value in scope["headers"] if name.lower() == b"x-request-id"), b"")
    return given if acceptable_request_id(given) else b"-"
