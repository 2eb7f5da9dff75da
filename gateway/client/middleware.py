"""ASGI middleware for upstreams behind the gateway: it refuses requests without a valid assertion."""

from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any

from gateway.client.verifier import AssertionVerifier, Identity
from gateway.errors import Refusal
from gateway.wire.problem import Field, problem_body, problem_fields
from gateway.wire.request_ids import acceptable_request_id

# The types of any ASGI framework, without a dependency on one.
Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class IdentityMiddleware:
    """Stores the verified Identity in `request.state.identity`, and answers 401 without one.

    `jwks_url`, `audience`, `issuer`, `leeway` and `insecure` are passed to AssertionVerifier. `header` is the value of
    `identity.assertion.header`. Without `required`, requests without an assertion have the identity None, for routes of
    the gateway with `auth: optional` or `none`. Paths in `public` are not checked and have the identity None, for
    example health checks, which carry no assertion.
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
        if scope["type"] not in ("http", "websocket"):  # lifespan
            await self._app(scope, receive, send)
            return
        try:
            identity = await self._identity(scope)
        except Refusal as refusal:
            await _refuse(refusal, scope, receive, send)
            return
        # A copy, because all requests share the original state.
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
        await receive()  # Receive websocket.connect, then answer the handshake instead of closing the connection.
        if "websocket.http.response" not in scope.get("extensions", {}):
            await send({"type": "websocket.close", "code": 1008})  # the server turns it into a 403
            return
        kind = "websocket.http.response"
    await send({"type": f"{kind}.start", "status": refusal.status, "headers": fields})
    await send({"type": f"{kind}.body", "body": body})


def _request_id(scope: Scope) -> bytes:
    """The request id set by the gateway."""
    given = next((value for name, value in scope["headers"] if name.lower() == b"x-request-id"), b"")
    return given if acceptable_request_id(given) else b"-"
