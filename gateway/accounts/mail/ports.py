"""Mail as accounts cause it: what waits in the outbox, and the interfaces of its store and of its limits.

An anonymous request, such as a forgotten password, enters the outbox as a request. The sender finds out afterwards
whether it leads to a mail. Known and unknown addresses therefore cost the same until the answer.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Literal, NamedTuple, Protocol

from gateway.accounts.emails import EmailAddress
from gateway.identity.user import ClientInfo

# The texts of mails have these names too. Mails of the first five carry a link.
MailKind = Literal[
    "verify",
    "welcome-back",
    "reset",
    "invitation",
    "change-email",
    "address-change-requested",
    "address-changed",
    "address-in-use",
    "password-changed",
    "api-key-created",
    "account-claimed",
    "account-deleted",
    "new-sign-in",
    "test",
]
WITH_LINK: Final[frozenset[MailKind]] = frozenset(("verify", "welcome-back", "reset", "invitation", "change-email"))

RequestKind = Literal["asked-reset", "asked-register", "asked-verify", "asked-email"]


class MailRequest(NamedTuple):
    """A request that leads to a mail, or not. `user_id` is the account that asks, None for an anonymous client. With
    `session_id`, the mail is only written while this session is open."""

    kind: RequestKind
    email: EmailAddress
    user_id: str | None = None
    origin: ClientInfo = ClientInfo()
    session_id: str | None = None


@dataclass(frozen=True, slots=True)
class OutgoingMail:
    """A mail to send.

    id: random; part of the Message-ID, so that a mail sent twice is recognised.
    recipient: the address as its owner wrote it.
    language: that of the account, None for the default.
    link: the token of its link, "" without one.
    data: values for the placeholders of its text.
    expires_at: sending is pointless afterwards.
    link_expires_at: the end of its link, which can be later; None for `expires_at`.
    """

    id: str
    kind: MailKind
    recipient: str
    language: str | None
    created_at: datetime
    expires_at: datetime
    link: str = field(default="", repr=False)
    data: Mapping[str, str] = field(default_factory=dict)
    link_expires_at: datetime | None = None


class WaitingMail(NamedTuple):
    """A mail or request in the outbox, as shown to operators. `given_up_at` is None while it waits."""

    id: str
    kind: str
    recipient: str
    created_at: datetime
    due_at: datetime
    attempts: int
    given_up_at: datetime | None
    reason: str | None


class Backlog(NamedTuple):
    """The mails that wait: their number, and the age of the oldest in seconds."""

    waiting: int
    oldest: float


class RequestStore(Protocol):
    """The outbox as account services see it."""

    async def ask(self, request: MailRequest) -> None:
        """Store a request. Raises StorageUnavailable."""


class RequestResolver(Protocol):
    """Answers requests after the response to them."""

    async def resolve(self) -> int:
        """Replace due requests with the mails that they lead to. Returns the number of requests. Raises
        StorageUnavailable."""


class LeasedMail(NamedTuple):
    """A mail that this process can send until `until`."""

    mail: OutgoingMail
    attempts: int
    until: datetime


class OutboxStore(Protocol):
    """The outbox as the sender sees it. All methods raise StorageUnavailable."""

    async def is_due(self, *, requests: bool) -> bool:
        """Whether a request, or else a mail, is due. Cheap."""

    async def lease(self, count: int) -> tuple[LeasedMail, ...]:
        """Take due mails for this process. Another process takes them again when the lease is over."""

    async def sent(self, leased: LeasedMail) -> None:
        """Record that a mail was sent."""

    async def retry(self, leased: LeasedMail, reason: str, *, is_outage: bool) -> None:
        """Record a failed attempt: the mail is due again later. `is_outage`: the server gave no answer."""

    async def give_up(self, leased: LeasedMail, reason: str) -> None:
        """Record that a mail cannot be sent, with an audit record."""

    async def release(self, leased: LeasedMail) -> None:
        """End the lease of a mail without an attempt."""

    async def note_outage(self, reason: str) -> None:
        """Record why mails wait that were not attempted yet."""

    async def hasten(self) -> int:
        """Make mails due whose first attempts failed because of an outage. Returns their number."""

    async def backlog(self) -> Backlog:
        """The mails and requests that wait."""

    async def delete_old(self) -> int:
        """Delete some rows of mails and links that are over. Returns their number."""


class MailLimiter(Protocol):
    """Limits the mails that anonymous requests cause."""

    async def admits(self, recipient: str, address: str) -> bool:
        """Count a mail to this canonical address, caused by a client at `address`. False: send none."""
