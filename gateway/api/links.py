"""HTTP endpoints of links and mail: verified addresses, forgotten passwords and invitations.

Responses to requests for a link never depend on the address: same status, same bytes, and no look-up before them.
"""

from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from gateway.accounts.commands import (
    AcceptedInvitation,
    EmailOnly,
    NewInvitation,
    RegistrationRequest,
    ResetByLink,
    Verify,
)
from gateway.accounts.inputs import accept
from gateway.accounts.invitations import InvitationAcceptance, Invitations
from gateway.accounts.link_uses import Registered
from gateway.accounts.links import Invitation
from gateway.accounts.password_reset import PasswordReset
from gateway.accounts.passwords import presented_password
from gateway.accounts.serialize import rfc3339
from gateway.accounts.verification import Verification
from gateway.api.accounts import tokens
from gateway.api.body import (
    Endpoint,
    actor_of,
    admission_of,
    cancel_on_disconnect,
    json_body,
    origin_of,
    signed_in,
    translate_storage_errors,
)
from gateway.api.session_cookie import FirstSessions
from gateway.errors import FieldError, Refusal
from gateway.identity.user import Claims
from gateway.settings.model import Settings

_CHOSEN_LATER: Final = "is chosen once the address is verified"


class LinkEndpoints:
    """One method per endpoint."""

    def __init__(
        self,
        *,
        verification: Verification,
        resets: PasswordReset,
        invitations: Invitations,
        acceptance: InvitationAcceptance,
        first_sessions: FirstSessions,
        settings: Settings,
    ) -> None:
        self._verification = verification
        self._resets = resets
        self._invitations = invitations
        self._acceptance = acceptance
        self._first_sessions = first_sessions
        self._settings = settings

    async def register(self, request: Request) -> Response:
        """POST /register, where a link comes before the account"""
        fields = await json_body(request)
        if "password" in fields:
            raise Refusal("invalid_fields", fields=[FieldError("password", _CHOSEN_LATER)])
        body = accept(RegistrationRequest, fields, self._settings)
        await self._verification.register(body.email, origin_of(request))
        return _mail_sent()

    async def verify(self, request: Request) -> Response:
        """POST /verify"""
        body = accept(Verify, await json_body(request), self._settings)
        if body.session:
            self._first_sessions.require_own_page(request)
        with_tokens = not body.session
        verifying = self._verification.accept(body, _claims(request), origin_of(request), with_tokens=with_tokens)
        return await self._registered(request, await cancel_on_disconnect(request, verifying), body.password)

    async def resend(self, request: Request) -> Response:
        """POST /verify/resend"""
        principal, claims = signed_in(request)
        await self._verification.resend(principal, claims, origin_of(request))
        return _mail_sent()

    async def forgot(self, request: Request) -> Response:
        """POST /password/forgot"""
        body = accept(EmailOnly, await json_body(request), self._settings)
        await self._resets.request(body.email, origin_of(request))
        return _mail_sent()

    async def reset(self, request: Request) -> Response:
        """POST /password/reset"""
        body = accept(ResetByLink, await json_body(request), self._settings)
        resetting = self._resets.accept(body.token, body.new_password, origin_of(request))
        await cancel_on_disconnect(request, resetting)
        return Response(status_code=204)

    async def email(self, request: Request) -> Response:
        """POST /email"""
        principal, claims = signed_in(request)
        self._verification.require_fresh(claims)
        body = accept(EmailOnly, await json_body(request), self._settings)
        await self._verification.change_email(principal, claims, body.email, origin_of(request))
        return _mail_sent()

    async def accept_invitation(self, request: Request) -> Response:
        """POST /invitations/accept"""
        body = accept(AcceptedInvitation, await json_body(request), self._settings)
        if body.session:
            self._first_sessions.require_own_page(request)
        with_tokens = not body.session
        accepting = self._acceptance.accept(body, _claims(request), origin_of(request), with_tokens=with_tokens)
        return await self._registered(request, await cancel_on_disconnect(request, accepting), body.password)

    async def _registered(self, request: Request, registered: Registered | None, password: str | None) -> Response:
        """The response to a link: tokens or a cookie for a new account."""
        if registered is None:
            return Response(status_code=204)
        if registered.tokens is not None:
            return tokens(registered.tokens, 201)
        return await self._first_sessions.begin(request, registered.email, presented_password(password or ""))

    async def invite(self, request: Request) -> Response:
        """POST /invitations"""
        body = accept(NewInvitation, await json_body(request), self._invitations.settings)
        made = await self._invitations.create(body, by=actor_of(request))
        return JSONResponse({**_invitation(made.invitation), **({"link": made.link} if made.link else {})}, 201)

    async def list_invitations(self, request: Request) -> Response:
        """GET /invitations: not paginated, because the number of open ones is bounded"""
        return JSONResponse({"invitations": [_invitation(each) for each in await self._invitations.list()]})

    async def withdraw(self, request: Request) -> Response:
        """DELETE /invitations/{id}"""
        await self._invitations.withdraw(request.path_params["id"], by=actor_of(request))
        return Response(status_code=204)

    async def reset_user(self, request: Request) -> Response:
        """POST /users/{id}/reset"""
        await self._resets.issue(request.path_params["id"], deliver=True, by=actor_of(request))
        return _mail_sent()


def link_endpoints(endpoints: LinkEndpoints, settings: Settings) -> dict[str, Endpoint]:
    """The handlers by endpoint name. With `verification: required`, `register` is one of them."""
    handlers: dict[str, Endpoint] = {
        "accounts.verify": endpoints.verify,
        "accounts.verify.resend": endpoints.resend,
        "accounts.password.forgot": endpoints.forgot,
        "accounts.password.reset": endpoints.reset,
        "accounts.email": endpoints.email,
        "accounts.invitations.accept": endpoints.accept_invitation,
        "admin.users.reset": endpoints.reset_user,
        "admin.invitations.list": endpoints.list_invitations,
        "admin.invitations.create": endpoints.invite,
        "admin.invitations.delete": endpoints.withdraw,
    }
    if settings.accounts.email.verification == "required":
        handlers["accounts.register"] = endpoints.register
    return {name: translate_storage_errors(handler) for name, handler in handlers.items()}


def _mail_sent() -> Response:
    return JSONResponse({"status": "mail_sent"}, 202)


def _claims(request: Request) -> Claims | None:
    return admission_of(request).claims


def _invitation(invitation: Invitation) -> dict[str, Any]:
    return {
        "id": invitation.id,
        "email": invitation.email,
        "roles": sorted(invitation.roles),
        "created_at": rfc3339(invitation.created_at),
        "expires_at": rfc3339(invitation.expires_at),
    }
