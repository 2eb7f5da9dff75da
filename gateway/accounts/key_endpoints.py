"""HTTP endpoints for the caller's API keys."""

from datetime import datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from gateway.accounts.api_keys import OwnKeys
from gateway.accounts.commands import KeyRequest
from gateway.accounts.inputs import accept
from gateway.accounts.requests import Endpoint, json_body, origin_of, refusing, signed_in, unless_left
from gateway.accounts.serialize import rfc3339
from gateway.accounts.service import account_holder
from gateway.identity.api_keys import ApiKey


def key_endpoints(keys: OwnKeys) -> dict[str, Endpoint]:
    """The handlers by endpoint name."""

    async def list_(request: Request) -> Response:
        """GET /api-keys: not paginated, because the number per account is bounded"""
        listed = await keys.list(signed_in(request)[1], origin_of(request))
        return JSONResponse({"api_keys": [_shown(key) for key in listed]})

    async def create(request: Request) -> Response:
        """POST /api-keys"""
        principal, claims = signed_in(request)
        origin = origin_of(request)
        account_holder(claims, origin)  # Refused before the body is validated.
        asked = accept(KeyRequest, await json_body(request), keys.settings)
        made = await unless_left(request, keys.create(principal, claims, asked, origin))
        return JSONResponse({**_shown(made.key), "key": made.text}, 201)

    async def delete(request: Request) -> Response:
        """DELETE /api-keys/{id}"""
        await keys.delete(signed_in(request)[1], request.path_params["id"], origin_of(request))
        return Response(status_code=204)

    return {
        "accounts.api_keys.list": refusing(list_),
        "accounts.api_keys.create": refusing(create),
        "accounts.api_keys.delete": refusing(delete),
    }


def _shown(key: ApiKey) -> dict[str, Any]:
    return {
        "id": key.id,
        "name": key.name,
        "roles": sorted(key.roles),
        "created_at": rfc3339(key.created_at),
        "expires_at": _or_none(key.expires_at),
        "last_used_at": _or_none(key.last_used_at),
    }


def _or_none(moment: datetime | None) -> str | None:
    return None if moment is None else rfc3339(moment)
