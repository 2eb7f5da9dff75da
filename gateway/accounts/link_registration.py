"""The account that a link creates: of a registration or of an invitation. Its address is verified by the link."""

import uuid
from typing import NamedTuple

from gateway.accounts.change_publisher import ChangePublisher
from gateway.accounts.commands import chosen
from gateway.accounts.emails import EmailAddress
from gateway.accounts.link_uses import LinkUses
from gateway.accounts.links import Link
from gateway.accounts.passwords import PasswordPool
from gateway.accounts.roles import admin_roles
from gateway.accounts.service import Accounts, TokenPair
from gateway.accounts.store import NewUser
from gateway.identity.user import Actor, ChangeFeed, ClientInfo
from gateway.wire.addresses import Callers


class Registered(NamedTuple):
    """A new account. `tokens` are None if the caller begins a session of another kind."""

    email: EmailAddress
    tokens: TokenPair | None


class LinkRegistration:
    """Creates accounts. `accounts` opens their first sessions."""

    def __init__(self, *, uses: LinkUses, accounts: Accounts, passwords: PasswordPool, feed: ChangeFeed) -> None:
        self._uses = uses
        self._accounts = accounts
        self._passwords = passwords
        self._callers = Callers()
        self._publisher = ChangePublisher(feed)

    async def create(
        self, link: Link, password: str, roles: frozenset[str], origin: ClientInfo, *, with_tokens: bool
    ) -> Registered:
        """Use the link. Raises `invalid_fields` for the password, `link_invalid`, `account_exists` and `overloaded`."""
        settings = self._accounts.settings
        accepted = chosen(password, settings, field="password")
        session = self._accounts.opening(origin) if with_tokens else None
        user = NewUser(
            id=str(uuid.uuid4()),
            email=link.email,
            canonical=link.canonical,
            password_hash=await self._passwords.hash(accepted, caller=self._callers.by_address(origin.address)),
            roles=roles,
            email_verified=True,
        )
        by, admins = Actor(user.id, origin), admin_roles(settings)
        registering = self._uses.links.register(link, user, by=by, admin_roles=admins, session=session)
        record = self._uses.used(link, await self._publisher.changed(registering))
        tokens = None if session is None else self._accounts.tokens_for(record, session)
        return Registered(EmailAddress(link.email, link.canonical), tokens)
