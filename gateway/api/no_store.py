"""Keep responses of built-in endpoints out of caches."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.wire.problem import NO_STORE


class NoStore:
    """ASGI middleware that adds `Cache-Control: no-store` to responses without Cache-Control."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                names = {name.lower() for name, _ in message["headers"]}
                if b"cache-control" not in names:
                    message = {**message, "headers": [*message["headers"], NO_STORE]}
            await send(message)

        await self._app(scope, receive, guarded)
