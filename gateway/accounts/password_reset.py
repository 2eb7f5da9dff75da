"""Forgotten passwords: a link to the mailbox of the account, and a new password.

The response to a request is the same for known and unknown addresses. The new password signs no browser in, and ends
every session and API key of the account (ASVS 6.4.3).

Methods raise Refusal for errors of the client. StorageUnavailable propagates.
"""

from gateway.accounts.change_publisher import ChangePublisher
from gateway.accounts.emails import EmailAddress
from gateway.accounts.link_uses import LinkUses
from gateway.accounts.links import RESETTING, LinkLifetimes, link_address
from gateway.accounts.mail.ports import MailLimiter, MailRequest, RequestStore
from gateway.accounts.passwords import Password, PasswordPool
from gateway.accounts.store import AccountStore
from gateway.errors import Refusal
from gateway.identity.user import Actor, ChangeFeed, ClientInfo
from gateway.settings.model import Settings
from gateway.wire.addresses import Callers


class PasswordReset:
    """The service. `limits` bound the mails that anonymous requests cause."""

    def __init__(
        self,
        *,
        uses: LinkUses,
        requests: RequestStore,
        limits: MailLimiter,
        users: AccountStore,
        passwords: PasswordPool,
        feed: ChangeFeed,
        settings: Settings,
    ) -> None:
        self.uses = uses
        self._requests = requests
        self._limits = limits
        self._users = users
        self._passwords = passwords
        self._callers = Callers()
        self._publisher = ChangePublisher(feed)
        self.renew(settings)

    def renew(self, settings: Settings) -> None:
        """Apply new settings, which can name other addresses of links."""
        self.settings = settings

    async def request(self, email: EmailAddress, origin: ClientInfo) -> None:
        """Mail a link to the account of an address, if there is one."""
        if await self._limits.admits(email.canonical, origin.address):
            await self._requests.ask(MailRequest("asked-reset", email, origin=origin))

    async def accept(self, token: str, password: Password, origin: ClientInfo) -> None:
        """Use a link. Raises `link_invalid` and `overloaded`."""
        link = await self.uses.find(token, RESETTING)
        assert link.user_id is not None, "the link belongs to an account"
        hashed = await self._passwords.hash(password, caller=self._callers.by_address(origin.address))
        resetting = self.uses.links.reset(link, hashed, by=Actor(link.user_id, origin))
        self.uses.used(link, await self._publisher.changed(resetting))

    async def issue(self, user_id: str, *, deliver: bool, by: Actor) -> str:
        """Create a link for an account, on behalf of an administrator, and mail it if `deliver`. Returns its address.

        Raises `not_found`, and `account_disabled` for an account that is disabled.
        """
        if await self._users.user(user_id) is None:
            raise Refusal("not_found", detail="No account has this id")
        lifetime = LinkLifetimes.of(self.settings).reset
        token = await self.uses.links.issue_reset(user_id, lifetime=lifetime, deliver=deliver, by=by)
        if token is None:
            raise Refusal("account_disabled", detail="The account is disabled, or has just been deleted")
        return link_address(self.settings, "reset", token)
