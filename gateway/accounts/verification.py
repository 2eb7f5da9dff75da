"""Verified addresses: registration by a link, verification of an existing address, and changes of an address.

A link proves the mailbox that it was sent to. The account belongs to the person who proves its mailbox first:
verification with a new password removes everything that was added before.

Methods raise Refusal for errors of the client. StorageUnavailable propagates.
"""

import time
from collections.abc import Callable, Coroutine
from typing import Any, assert_never

from gateway.accounts.change_publisher import ChangePublisher
from gateway.accounts.commands import Verify
from gateway.accounts.confirmation import Confirmation, require_fresh
from gateway.accounts.emails import EmailAddress, email_address
from gateway.accounts.link_uses import LinkRegistration, LinkUses, Registered
from gateway.accounts.links import VERIFYING, Link, link_invalid
from gateway.accounts.mail.ports import MailLimiter, MailRequest, RequestStore
from gateway.accounts.passwords import PasswordPool, presented_password
from gateway.accounts.service import Accounts, RegistrationLimiter, account_holder
from gateway.errors import FieldError, Refusal
from gateway.identity.principal import Principal
from gateway.identity.user import Actor, ChangeFeed, Claims, ClientInfo, UserRecord
from gateway.wire.addresses import Callers


class Verification:
    """The service. `limits` bound the mails that clients cause. `clock` returns seconds since the epoch."""

    def __init__(
        self,
        *,
        uses: LinkUses,
        requests: RequestStore,
        limits: MailLimiter,
        registrations: RegistrationLimiter,
        accounts: Accounts,
        registration: LinkRegistration,
        passwords: PasswordPool,
        confirmation: Confirmation,
        feed: ChangeFeed,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.uses = uses
        self._requests = requests
        self._limits = limits
        self._registrations = registrations
        self._accounts = accounts
        self._registration = registration
        self._passwords = passwords
        self._confirmation = confirmation
        self._callers = Callers()
        self._publisher = ChangePublisher(feed)
        self._clock = clock

    # ---- requests for links

    async def register(self, email: EmailAddress, origin: ClientInfo) -> None:
        """Mail a link that creates an account. An address that has one gets another mail, and the same response.

        Raises `registration_closed` and `rate_limited`.
        """
        self._accounts.require_open_registration()
        await self._registrations.count(origin.address)
        await self._ask(MailRequest("asked-register", email, origin=origin))

    async def resend(self, principal: Principal, claims: Claims, origin: ClientInfo) -> None:
        """Mail a link that verifies the caller's address, unless it is verified. Raises `forbidden` like
        account_holder."""
        holder = account_holder(claims, origin)
        await self.send(holder.id, principal.email, origin)

    async def send(self, user_id: str, email: str, origin: ClientInfo) -> None:
        """Mail a link that verifies the address of an account, unless it is verified."""
        await self._ask(MailRequest("asked-verify", email_address(email), user_id, origin))

    def require_fresh(self, claims: Claims) -> None:
        """Raise `reauthentication_required` unless the caller has signed in recently: a stolen token must not move an
        account to another mailbox."""
        require_fresh(claims, self._accounts.settings, now=self._clock())

    async def change_email(self, principal: Principal, claims: Claims, email: EmailAddress, origin: ClientInfo) -> None:
        """Mail a link to a new address of the caller. The response does not depend on the accounts of others.

        Raises `invalid_fields` for the caller's own address, and `forbidden` like account_holder.
        """
        holder = account_holder(claims, origin)
        if email.canonical == email_address(principal.email).canonical:
            raise Refusal("invalid_fields", fields=[FieldError("email", "is the address of this account already")])
        await self._ask(MailRequest("asked-email", email, holder.id, origin, session_id=claims.session))

    async def _ask(self, request: MailRequest) -> None:
        if await self._limits.admits(request.email.canonical, request.origin.address):
            await self._requests.ask(request)

    # ---- uses of links

    async def accept(
        self, body: Verify, claims: Claims | None, origin: ClientInfo, *, with_tokens: bool = True
    ) -> Registered | None:
        """Use a link that verifies an address, creates an account or changes an address. None unless it creates one.

        Raises `link_invalid`, `invalid_fields` for a missing password, and for an existing account the refusals of
        Confirmation.
        """
        link = await self.uses.find(body.token, VERIFYING)
        match link.kind:
            case "email":
                _require_nothing_else(body)
                await self._use(link, self.uses.links.change_email(link, by=_owner(link, origin)))
            case "verify":
                await self._verify(link, body, claims, origin)
            case "register":
                return await self._create(link, body, origin, with_tokens=with_tokens)
            case "reset" | "invitation":
                raise link_invalid("of another kind")
            case _:
                assert_never(link.kind)
        return None

    async def _verify(self, link: Link, body: Verify, claims: Claims | None, origin: ClientInfo) -> None:
        assert link.user_id is not None, "the link belongs to an account"
        by = _owner(link, origin)
        if body.new_password is not None:
            if link.is_verified:
                raise link_invalid("the address is verified already")
            hashed = await self._passwords.hash(body.new_password, caller=self._callers.by_address(origin.address))
            await self._use(link, self.uses.links.claim(link, hashed, by=by))
            return
        if body.password is not None:
            await self._confirmation.confirm(link.user_id, presented_password(body.password), origin.address)
        elif claims is None or claims.subject != link.user_id or claims.roles is not None:
            reason = "is required without a session of this account"
            raise Refusal("invalid_fields", fields=[FieldError("password", reason)])
        await self._use(link, self.uses.links.verify(link, by=by))

    async def _create(self, link: Link, body: Verify, origin: ClientInfo, *, with_tokens: bool) -> Registered:
        self._accounts.require_open_registration()
        if body.new_password is not None or body.password is None:
            raise Refusal("invalid_fields", fields=[FieldError("password", "is required to create the account")])
        return await self._registration.create(
            link,
            body.password,
            frozenset(self._accounts.settings.accounts.default_roles),
            origin,
            with_tokens=with_tokens,
        )

    async def _use(self, link: Link, change: Coroutine[Any, Any, UserRecord | None]) -> None:
        self.uses.used(link, await self._publisher.changed(change))


def _owner(link: Link, origin: ClientInfo) -> Actor:
    assert link.user_id is not None, "the link belongs to an account"
    return Actor(link.user_id, origin)


def _require_nothing_else(body: Verify) -> None:
    given = [name for name in ("password", "new_password") if getattr(body, name) is not None]
    if given:
        raise Refusal("invalid_fields", fields=[FieldError(name, "is not needed for this link") for name in given])
