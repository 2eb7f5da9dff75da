"""The mail of a running gateway: links, the services behind them, and the sender.

Imported only where mail is configured.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from gateway.accounts.change_publisher import CLOCK_SKEW
from gateway.accounts.confirmation import Confirmation
from gateway.accounts.invitations import InvitationAcceptance, Invitations
from gateway.accounts.link_uses import LinkRegistration, LinkUses
from gateway.accounts.links import LinkLifetimes
from gateway.accounts.mail.composing import Composer
from gateway.accounts.mail.sender import Sender, open_sender
from gateway.accounts.password_reset import PasswordReset
from gateway.accounts.passwords import PasswordPool
from gateway.accounts.service import Accounts, RegistrationLimiter
from gateway.accounts.texts.catalogue import Catalogue
from gateway.accounts.verification import Verification
from gateway.gate.rate_limits import MailLimits
from gateway.samples import Sample
from gateway.server.resources import Resources
from gateway.settings.model import Settings
from gateway.storage.links import Links
from gateway.storage.mail_requests import MailRequests


@dataclass(frozen=True, slots=True)
class MailServices:
    """The services that need mail."""

    uses: LinkUses
    verification: Verification
    resets: PasswordReset
    invitations: Invitations
    acceptance: InvitationAcceptance
    sender: Sender

    def samples(self) -> Iterator[Sample]:
        yield from self.uses.samples()
        yield from self.sender.samples()

    def renew(self, settings: Settings, catalogue: Catalogue) -> None:
        """Apply new settings, addresses of links and texts."""
        self.invitations.renew(settings)
        self.resets.renew(settings)
        self.sender.composer = Composer(settings, catalogue)


def open_mail(
    resources: Resources,
    *,
    accounts: Accounts,
    passwords: PasswordPool,
    confirmation: Confirmation,
    registrations: RegistrationLimiter,
    limits: MailLimits,
) -> MailServices:
    """Create the services, and start the sender, which ends with the foundation. Raises ConfigurationError for unusable
    texts."""
    settings, stores = resources.settings, resources.stores
    links = Links(stores.database, stores.outbox, keys_known_for=settings.cache.user_ttl + CLOCK_SKEW)
    uses = LinkUses(links)
    registration = LinkRegistration(uses=uses, accounts=accounts, passwords=passwords, feed=stores.feed)
    requests = MailRequests(stores.database, stores.outbox, LinkLifetimes.of(settings))
    sender = open_sender(settings, stores.outbox, requests)
    sender.start()
    resources.stack.push_async_callback(sender.close)
    return MailServices(
        uses=uses,
        verification=Verification(
            uses=uses,
            requests=stores.outbox,
            limits=limits,
            registrations=registrations,
            accounts=accounts,
            registration=registration,
            passwords=passwords,
            confirmation=confirmation,
            feed=stores.feed,
        ),
        resets=PasswordReset(
            uses=uses,
            requests=stores.outbox,
            limits=limits,
            users=stores.users,
            passwords=passwords,
            feed=stores.feed,
            settings=settings,
        ),
        invitations=Invitations(links, settings),
        acceptance=InvitationAcceptance(
            uses=uses, users=stores.users, accounts=accounts, registration=registration, feed=stores.feed
        ),
        sender=sender,
    )
