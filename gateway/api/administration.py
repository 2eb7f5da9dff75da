"""HTTP endpoints of the administration: users and the audit trail. The gate has authorized the caller."""

from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from gateway.accounts.administration import Administration
from gateway.accounts.commands import AccountChange, NewAccount
from gateway.accounts.inputs import accept
from gateway.accounts.serialize import account, audit_record
from gateway.accounts.store import AuditSelection, Selection
from gateway.api.body import Endpoint, actor_of, admission_of, json_body, query_fields, translate_storage_errors
from gateway.api.cursors import audit_cursor, user_cursor
from gateway.api.queries import AuditQuery, UserQuery
from gateway.errors import Refusal
from gateway.wire.paths import decoded_segment


class AdministrationEndpoints:
    """One method per endpoint."""

    def __init__(self, administration: Administration) -> None:
        self._administration = administration

    async def list_users(self, request: Request) -> Response:
        """GET /users"""
        query = accept(UserQuery, query_fields(request), self._administration.settings)
        selection = Selection(query.query, query.role, query.active, query.limit, query.cursor)
        page = await self._administration.page(selection)
        following = None if page.next is None else user_cursor(page.next)
        return JSONResponse({"users": [account(record) for record in page.users], "next_cursor": following})

    async def create_user(self, request: Request) -> Response:
        """POST /users"""
        body = accept(NewAccount, await json_body(request), self._administration.settings)
        record = await self._administration.make(body, by=actor_of(request))
        place = f"{request.scope['raw_path'].decode('ascii').rstrip('/')}/{quote(record.id)}"
        return JSONResponse(account(record), 201, {"location": place})

    async def show_user(self, request: Request) -> Response:
        """GET /users/{id}"""
        return JSONResponse(account(await self._administration.show(_user_id(request))))

    async def change_user(self, request: Request) -> Response:
        """PATCH /users/{id}"""
        body = accept(AccountChange, await json_body(request), self._administration.settings)
        return JSONResponse(account(await self._administration.change(_user_id(request), body, by=actor_of(request))))

    async def delete_user(self, request: Request) -> Response:
        """DELETE /users/{id}"""
        await self._administration.delete(_user_id(request), by=actor_of(request))
        return Response(status_code=204)

    async def revoke_user(self, request: Request) -> Response:
        """POST /users/{id}/revoke"""
        await self._administration.revoke(_user_id(request), by=actor_of(request))
        return Response(status_code=204)

    async def audit(self, request: Request) -> Response:
        """GET /audit"""
        query = accept(AuditQuery, query_fields(request), self._administration.settings)
        selection = AuditSelection(
            query.subject, query.actor, query.action, query.since, query.until, query.limit, query.cursor
        )
        page = await self._administration.audit(selection)
        following = None if page.next is None else audit_cursor(page.next)
        return JSONResponse({"records": [audit_record(record) for record in page.records], "next_cursor": following})


def administration_endpoints(administration: Administration) -> dict[str, Endpoint]:
    """The handlers by endpoint name."""
    endpoints = AdministrationEndpoints(administration)
    handlers: dict[str, Endpoint] = {
        "admin.users.list": endpoints.list_users,
        "admin.users.create": endpoints.create_user,
        "admin.users.show": endpoints.show_user,
        "admin.users.change": endpoints.change_user,
        "admin.users.delete": endpoints.delete_user,
        "admin.users.revoke": endpoints.revoke_user,
        "admin.audit": endpoints.audit,
    }
    return {name: translate_storage_errors(handler) for name, handler in handlers.items()}


def _user_id(request: Request) -> str:
    """The id in the path. Addresses are refused, because paths appear in logs."""
    user_id = decoded_segment(dict(admission_of(request).captures)["id"]).decode()
    if "@" in user_id:
        raise Refusal("not_found", "an address instead of an id", detail="No account has this id")
    return user_id
