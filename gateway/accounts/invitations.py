"""Invitations: an administrator gives an address the way to an account with roles.

Only the mail and the response to the administrator contain the link. It is judged again when it is used: a role that
is not declared any more, or an author who is no administrator any more, makes it invalid.

Methods raise Refusal for errors of the client. StorageUnavailable propagates.
"""

import re
from typing import Final, NamedTuple

from gateway.accounts.change_publisher import ChangePublisher
from gateway.accounts.commands import AcceptedInvitation, NewInvitation
from gateway.accounts.link_uses import LinkRegistration, LinkUses, Registered
from gateway.accounts.links import (
    INVITING,
    Invitation,
    InvitationStore,
    Link,
    LinkLifetimes,
    link_address,
    link_invalid,
)
from gateway.accounts.service import Accounts
from gateway.accounts.store import AccountStore
from gateway.errors import FieldError, Refusal
from gateway.identity.user import Actor, ChangeFeed, Claims, ClientInfo
from gateway.policy.roles import accepted_roles, admin_roles
from gateway.settings.model import Settings

_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}").fullmatch


class MadeInvitation(NamedTuple):
    """A new invitation. `link` is None if it was mailed."""

    invitation: Invitation
    link: str | None

    def __repr__(self) -> str:
        return f"MadeInvitation({self.invitation!r})"


class Invitations:
    """The service for administrators."""

    def __init__(self, store: InvitationStore, settings: Settings) -> None:
        self._store = store
        self.renew(settings)

    def renew(self, settings: Settings) -> None:
        """Apply new settings, which can declare other roles."""
        self.settings = settings

    async def create(self, body: NewInvitation, *, by: Actor) -> MadeInvitation:
        """Invite an address. Raises `account_exists`, and `invalid_fields` if a mail is asked for where no mail is
        configured."""
        if body.deliver and self.settings.mail is None:
            raise Refusal(
                "invalid_fields", fields=[FieldError("deliver", "must be false, because no mail is configured")]
            )
        longest = LinkLifetimes.of(self.settings).invitation
        lifetime = longest if body.expires_in is None else body.expires_in
        made = await self._store.invite(body.email, body.roles, lifetime=lifetime, deliver=body.deliver, by=by)
        if made is None:
            raise Refusal("account_exists")
        invitation, token = made
        link = None if body.deliver else link_address(self.settings, "invitation", token)
        return MadeInvitation(invitation, link)

    async def list(self) -> tuple[Invitation, ...]:
        """The open invitations, newest first."""
        return await self._store.open_invitations()

    async def withdraw(self, invitation_id: str, *, by: Actor) -> None:
        """Void an invitation. Raises `not_found`."""
        if _ID(invitation_id) is None or not await self._store.withdraw(invitation_id, by=by):
            raise Refusal("not_found", detail="No open invitation has this id")


class InvitationAcceptance:
    """The use of invitations."""

    def __init__(
        self,
        *,
        uses: LinkUses,
        users: AccountStore,
        accounts: Accounts,
        registration: LinkRegistration,
        feed: ChangeFeed,
    ) -> None:
        self.uses = uses
        self._users = users
        self._accounts = accounts
        self._registration = registration
        self._publisher = ChangePublisher(feed)

    async def accept(
        self, body: AcceptedInvitation, claims: Claims | None, origin: ClientInfo, *, with_tokens: bool = True
    ) -> Registered | None:
        """Create the account of an invitation, or add its roles to the caller's account with its address (None).

        Raises `link_invalid`, `account_exists` if the address has an account that is not the caller's, and
        `invalid_fields` for a missing password.
        """
        link = await self.uses.find(body.token, INVITING)
        self._require_issuer(link)
        roles = self._roles(link)
        owner = await self._users.by_email(link.canonical)
        if owner is not None:
            if claims is None or claims.subject != owner.id or claims.roles is not None:
                raise Refusal("account_exists")
            await self._join(link, owner.id, roles, origin)
            return None
        if body.password is None:
            raise Refusal("invalid_fields", fields=[FieldError("password", "is required")])
        return await self._registration.create(link, body.password, roles, origin, with_tokens=with_tokens)

    def _require_issuer(self, link: Link) -> None:
        """Raise `link_invalid` if the author is a subject of an issuer that is not configured any more."""
        issuer, bar, _ = link.data["by"].partition("|")
        if bar and issuer not in {each.name for each in self._accounts.settings.tokens.external}:
            raise link_invalid("the issuer of its author is gone")

    def _roles(self, link: Link) -> frozenset[str]:
        try:
            return accepted_roles(link.data["roles"], self._accounts.settings)
        except ValueError as error:
            raise link_invalid(f"a role is gone: {error}") from None

    async def _join(self, link: Link, user_id: str, roles: frozenset[str], origin: ClientInfo) -> None:
        admins = admin_roles(self._accounts.settings)
        joining = self.uses.links.join(link, user_id, roles, by=Actor(user_id, origin), admin_roles=admins)
        self.uses.used(link, await self._publisher.changed(joining))
