"""A proxy as written in an afternoon: Starlette, BaseHTTPMiddleware, PyJWT, one httpx client."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import metadata

import httpx
import jwt
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from bench.peers.hello import uvicorn
from bench.peers.peer import ROOT, Launch, Peer, Place
from bench.peers.signer import AUDIENCE, ISSUER

HOP_BY_HOP = {"connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"}
NOT_SENT_ON = HOP_BY_HOP | {"host", "authorization", "x-user-id", "x-user-email", "x-user-roles"}
NOT_SENT_BACK = HOP_BY_HOP | {"content-encoding", "content-length"}
ROLES = {"/api/items/": "user", "/api/inspect/": "user", "/api/audit/": "auditor"}


class Authentication(BaseHTTPMiddleware):
    """Verifies the token and stores its claims for the handler."""

    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            return JSONResponse({"detail": "Not authenticated"}, 401)
        try:
            request.state.claims = jwt.decode(
                token, request.app.state.key, algorithms=["ES256"], audience=AUDIENCE, issuer=ISSUER
            )
        except jwt.InvalidTokenError:
            return JSONResponse({"detail": "Invalid token"}, 401)
        return await call_next(request)


class Authorization(BaseHTTPMiddleware):
    """Requires the role for the path's prefix."""

    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        needed = next((role for prefix, role in ROLES.items() if request.url.path.startswith(prefix)), None)
        if needed not in request.state.claims.get("roles", []):
            return JSONResponse({"detail": "Insufficient permissions"}, 403)
        return await call_next(request)


async def proxy(request: Request) -> Response:
    """Forward the request and return the response, both buffered."""
    claims = request.state.claims
    headers = {name: value for name, value in request.headers.items() if name not in NOT_SENT_ON}
    headers |= {"x-user-id": claims["sub"], "x-user-email": claims["email"], "x-user-roles": claims["role"]}
    client: httpx.AsyncClient = request.app.state.client
    answer = await client.request(
        request.method,
        request.url.path,
        params=request.query_params,
        headers=headers,
        content=await request.body(),
    )
    back = {name: value for name, value in answer.headers.items() if name not in NOT_SENT_BACK}
    return Response(answer.content, answer.status_code, back)


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    app.state.key = os.environ["BENCH_PUBLIC_KEY"]
    async with httpx.AsyncClient(base_url=os.environ["BENCH_UPSTREAM"], timeout=30) as client:
        app.state.client = client
        yield


def create_app() -> Starlette:
    return Starlette(
        routes=[Route("/{path:path}", proxy, methods=["GET", "POST", "PUT", "PATCH", "DELETE"])],
        middleware=[Middleware(Authentication), Middleware(Authorization)],
        lifespan=lifespan,
    )


class NaiveStarlette(Peer):
    name = "starlette-httpx"
    title = "Starlette + BaseHTTPMiddleware + httpx"
    does = "ES256 (PyJWT), role, identity headers"
    identity = True
    slow = True

    def version(self) -> str:
        return f"starlette {metadata.version('starlette')}, httpx {metadata.version('httpx')}"

    def launch(self, place: Place) -> Launch:
        environment = {
            "PYTHONPATH": str(ROOT),
            "BENCH_UPSTREAM": place.upstream,
            "BENCH_PUBLIC_KEY": place.signer.public_pem(),
        }
        return Launch(uvicorn("bench.peers.naive:create_app", place, "--factory"), environment)
