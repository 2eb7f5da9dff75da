"""HTTP endpoints for the caller's sessions."""

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from gateway.accounts.requests import Endpoint, origin_of, refusing, signed_in
from gateway.accounts.serialize import rfc3339
from gateway.accounts.sessions import OwnSessions
from gateway.accounts.store import LivingSession


def session_endpoints(sessions: OwnSessions) -> dict[str, Endpoint]:
    """The handlers by endpoint name."""

    async def list_(request: Request) -> Response:
        """GET /sessions: not paginated, because the number per account is bounded"""
        _, claims = signed_in(request)
        listed = await sessions.list(claims, origin_of(request))
        return JSONResponse({"sessions": [_shown(session, current=claims.session) for session in listed]})

    async def end(request: Request) -> Response:
        """DELETE /sessions/{id}"""
        await sessions.end(signed_in(request)[1], request.path_params["id"], origin_of(request))
        return Response(status_code=204)

    return {"accounts.sessions.list": refusing(list_), "accounts.sessions.end": refusing(end)}


def _shown(session: LivingSession, *, current: str) -> dict[str, Any]:
    return {
        "id": session.id,
        "created_at": rfc3339(session.created_at),
        "last_used_at": rfc3339(session.used_at),
        "expires_at": rfc3339(session.expires_at),
        "address": session.address,
        "user_agent": session.user_agent,
        "is_current": session.id == current,
    }
