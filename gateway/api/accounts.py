"""HTTP endpoints for the caller's own account, API keys and sessions."""

from datetime import datetime
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from gateway.accounts.api_keys import ApiKeyService
from gateway.accounts.browser_sessions import BrowserSessions
from gateway.accounts.commands import KeyRequest, Login, LoginForm, PasswordChange, Refresh, Registration
from gateway.accounts.inputs import accept
from gateway.accounts.serialize import own_account, rfc3339
from gateway.accounts.service import Accounts, SessionService, TokenPair, account_holder
from gateway.accounts.store import ActiveSession
from gateway.api.body import (
    FORM,
    JSON,
    Endpoint,
    cancel_on_disconnect,
    cookie_of,
    form_fields,
    json_body,
    json_object,
    media_type,
    origin_of,
    read_body,
    signed_in,
    translate_storage_errors,
)
from gateway.api.session_cookie import CookieFields, FirstSessions
from gateway.identity.api_keys import ApiKey

# OAuth 2 clients send these along with the password grant (RFC 6749 4.3.2, 2.3.1). They are ignored.
_OAUTH_FIELDS: Final = ("grant_type", "scope", "client_id", "client_secret")


class AccountEndpoints:
    """One method per endpoint for the caller's own account. `browser` is None without sessions of browsers."""

    def __init__(self, accounts: Accounts, browser: BrowserSessions | None, first_sessions: FirstSessions) -> None:
        self._accounts = accounts
        self._browser = browser
        self._first_sessions = first_sessions

    async def register(self, request: Request) -> Response:
        """POST /register"""
        self._accounts.require_open_registration()
        body = accept(Registration, await json_body(request), self._accounts.settings)
        origin = origin_of(request)
        if not body.session:
            registering = self._accounts.register(body.email, body.password, origin)
            return tokens(await cancel_on_disconnect(request, registering), 201)
        self._first_sessions.require_own_page(request)
        await cancel_on_disconnect(request, self._accounts.create(body.email, body.password, origin))
        return await self._first_sessions.begin(request, body.email, body.password)

    async def login(self, request: Request) -> Response:
        """POST /login"""
        settings = self._accounts.settings
        if media_type(request, JSON, FORM) == JSON:
            login = accept(Login, json_object(await read_body(request)), settings)
            email, password = login.email, login.password
        else:
            fields = form_fields(await read_body(request))
            meant = {name: value for name, value in fields.items() if name not in _OAUTH_FIELDS}
            form = accept(LoginForm, meant, settings)
            email, password = form.username, form.password
        return tokens(
            await cancel_on_disconnect(request, self._accounts.login(email, password, origin_of(request))), 200
        )

    async def refresh(self, request: Request) -> Response:
        """POST /refresh"""
        body = accept(Refresh, await json_body(request), self._accounts.settings)
        return tokens(await self._accounts.refresh(body.refresh_token, origin_of(request)), 200)

    async def logout(self, request: Request) -> Response:
        """POST /logout"""
        await self._accounts.logout(signed_in(request)[1], origin_of(request))
        return Response(status_code=204)

    async def logout_all(self, request: Request) -> Response:
        """POST /logout-all"""
        await self._accounts.logout_all(signed_in(request)[1], origin_of(request))
        return Response(status_code=204)

    async def me(self, request: Request) -> Response:
        """GET /me: own roles without implied ones; no creation date for subjects of external issuers"""
        principal, claims = signed_in(request)
        shown = own_account(principal.record)
        return JSONResponse({**shown, "created_at": None} if claims.is_external else shown)

    async def password(self, request: Request) -> Response:
        """POST /password"""
        _, claims = signed_in(request)
        change = accept(PasswordChange, await json_body(request), self._accounts.settings)
        following = None if self._browser is None else await self._browser.next_cookie(claims, cookie_of(request))
        changing = self._accounts.change_password(
            claims,
            change.current_password,
            change.new_password,
            origin=origin_of(request),
            end_api_keys=change.end_api_keys,
            renewal=None if following is None else following.renewal,
        )
        await cancel_on_disconnect(request, changing)
        fields = CookieFields(self._accounts.settings).set(following.cookie) if following is not None else None
        return Response(status_code=204, headers=fields)


def account_endpoints(
    accounts: Accounts, browser: BrowserSessions | None, first_sessions: FirstSessions
) -> dict[str, Endpoint]:
    """The handlers by endpoint name."""
    endpoints = AccountEndpoints(accounts, browser, first_sessions)
    handlers: dict[str, Endpoint] = {
        "accounts.register": endpoints.register,
        "accounts.login": endpoints.login,
        "accounts.refresh": endpoints.refresh,
        "accounts.logout": endpoints.logout,
        "accounts.logout_all": endpoints.logout_all,
        "accounts.me": endpoints.me,
        "accounts.password": endpoints.password,
    }
    return {name: translate_storage_errors(handler) for name, handler in handlers.items()}


def tokens(pair: TokenPair, status: int) -> Response:
    """The response of a sign-in by tokens."""
    return JSONResponse(
        {
            "access_token": pair.access_token,
            "token_type": "bearer",
            "expires_in": pair.expires_in,
            "refresh_token": pair.refresh_token.text,
        },
        status_code=status,
    )


def key_endpoints(keys: ApiKeyService) -> dict[str, Endpoint]:
    """The handlers by endpoint name."""

    async def list_(request: Request) -> Response:
        """GET /api-keys: not paginated, because the number per account is bounded"""
        listed = await keys.list(signed_in(request)[1], origin_of(request))
        return JSONResponse({"api_keys": [_shown_key(key) for key in listed]})

    async def create(request: Request) -> Response:
        """POST /api-keys"""
        principal, claims = signed_in(request)
        origin = origin_of(request)
        account_holder(claims, origin)  # Refused before the body is validated.
        keys.require_fresh(claims)
        key_request = accept(KeyRequest, await json_body(request), keys.settings)
        made = await cancel_on_disconnect(request, keys.create(principal, claims, key_request, origin))
        return JSONResponse({**_shown_key(made.key), "key": made.text}, 201)

    async def delete(request: Request) -> Response:
        """DELETE /api-keys/{id}"""
        await keys.delete(signed_in(request)[1], request.path_params["id"], origin_of(request))
        return Response(status_code=204)

    return {
        "accounts.api_keys.list": translate_storage_errors(list_),
        "accounts.api_keys.create": translate_storage_errors(create),
        "accounts.api_keys.delete": translate_storage_errors(delete),
    }


def _shown_key(key: ApiKey) -> dict[str, Any]:
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


def session_endpoints(sessions: SessionService) -> dict[str, Endpoint]:
    """The handlers by endpoint name."""

    async def list_(request: Request) -> Response:
        """GET /sessions: not paginated, because the number per account is bounded"""
        _, claims = signed_in(request)
        listed = await sessions.list(claims, origin_of(request))
        return JSONResponse({"sessions": [_shown_session(session, current=claims.session) for session in listed]})

    async def end(request: Request) -> Response:
        """DELETE /sessions/{id}"""
        await sessions.end(signed_in(request)[1], request.path_params["id"], origin_of(request))
        return Response(status_code=204)

    return {
        "accounts.sessions.list": translate_storage_errors(list_),
        "accounts.sessions.end": translate_storage_errors(end),
    }


def _shown_session(session: ActiveSession, *, current: str) -> dict[str, Any]:
    return {
        "id": session.id,
        "kind": session.kind,
        "created_at": rfc3339(session.created_at),
        "last_used_at": rfc3339(session.used_at),
        "expires_at": rfc3339(session.expires_at),
        "address": session.address,
        "user_agent": session.user_agent,
        "is_current": session.id == current,
    }
