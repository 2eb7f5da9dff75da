"""The presentation of links: one answer for every link that cannot be used, and counts of their uses."""

import uuid
from collections import Counter
from collections.abc import Collection, Iterator
from typing import NamedTuple

from gateway.accounts.change_publisher import ChangePublisher
from gateway.accounts.commands import chosen
from gateway.accounts.emails import EmailAddress
from gateway.accounts.links import Link, LinkKind, LinkStore, link_digest, link_invalid
from gateway.accounts.passwords import PasswordPool
from gateway.accounts.service import Accounts, TokenPair
from gateway.accounts.store import NewUser
from gateway.identity.user import Actor, ChangeFeed, ClientInfo, UserRecord
from gateway.policy.roles import admin_roles
from gateway.samples import Sample
from gateway.wire.addresses import Callers


class LinkUses:
    """Finds presented links. Showing the page of a link changes nothing: mail scanners open links (CVE-2026-124020)."""

    def __init__(self, links: LinkStore) -> None:
        self.links = links
        self._counts: Counter[tuple[str, str]] = Counter()

    async def shown(self, token: str, kinds: Collection[LinkKind]) -> Link | None:
        """A link of these kinds, for its page."""
        digest = link_digest(token)
        return None if digest is None else await self.links.find(digest, kinds)

    async def find(self, token: str, kinds: Collection[LinkKind]) -> Link:
        """A link that is about to be used. Raises `link_invalid`."""
        link = await self.shown(token, kinds)
        if link is None:
            self._counts[min(kinds), "invalid"] += 1
            raise link_invalid("unknown, used, expired, void or of another kind")
        return link

    def used(self, link: Link, record: UserRecord | None) -> UserRecord:
        """The record after the use of a link. Raises `link_invalid` for None: another attempt was faster, or the link
        became void after it was found."""
        self._counts[link.kind, "invalid" if record is None else "used"] += 1
        if record is None:
            raise link_invalid("used or void since it was found")
        return record

    def samples(self) -> Iterator[Sample]:
        """Uses of links by kind and outcome."""
        for labels, count in self._counts.items():
            yield Sample("gateway_links_used_total", labels, count)


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
