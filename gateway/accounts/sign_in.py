"""Sign-in by password: the steps that sessions of tokens and of browsers share, up to the session itself."""

from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Final, NamedTuple

from gateway.accounts.change_publisher import ChangePublisher
from gateway.accounts.emails import EmailAddress
from gateway.accounts.lockout import Lockout
from gateway.accounts.mail.ports import MailLimiter, MailRequest, RequestStore
from gateway.accounts.passwords import Password, PasswordPool
from gateway.accounts.store import AccountStore, StoredPassword
from gateway.errors import Refusal
from gateway.identity.user import ClientInfo, UserRecord
from gateway.samples import Sample
from gateway.wire.addresses import Callers

# Tries of a sign-in that conflicts with another change of the same account.
_ATTEMPTS: Final = 2


class CheckedPassword(NamedTuple):
    """The account whose password was right. `verified` is the stored hash, `rehashed` one of the configured cost to
    replace it, None if it has that cost."""

    user_id: str
    verified: str
    rehashed: str | None


Begin = Callable[[CheckedPassword], Coroutine[Any, Any, UserRecord | None]]


class VerificationRequired:
    """Refuses accounts without a verified address, and mails them a link (`accounts.email.verification: required`)."""

    def __init__(self, requests: RequestStore, limits: MailLimiter) -> None:
        self._requests = requests
        self._limits = limits

    async def check(self, found: StoredPassword, email: EmailAddress, origin: ClientInfo) -> None:
        """Raise `email_unverified` for an account whose address is not verified."""
        if found.email_verified:
            return
        if await self._limits.admits(email.canonical, origin.address):
            await self._requests.ask(MailRequest("asked-verify", email, found.user_id, origin))
        raise Refusal("email_unverified")


class PasswordSignIn:
    """Checks a password and begins a session. `verification` is None where unverified addresses can sign in."""

    def __init__(
        self,
        users: AccountStore,
        passwords: PasswordPool,
        lockout: Lockout,
        publisher: ChangePublisher,
        *,
        verification: VerificationRequired | None = None,
    ) -> None:
        self._verification = verification
        self._users = users
        self._passwords = passwords
        self._lockout = lockout
        self._publisher = publisher
        self._callers = Callers()
        self._outcomes: Counter[str] = Counter()

    def samples(self) -> Iterator[Sample]:
        """The sign-ins by outcome: `ok`, or the code of the refusal."""
        for outcome, count in self._outcomes.items():
            yield Sample("gateway_sign_ins_total", ("password", outcome), count)

    async def run(self, email: EmailAddress, password: Password | None, origin: ClientInfo, begin: Begin) -> UserRecord:
        """Sign in, and count the outcome. `_run` describes the refusals."""
        try:
            record = await self._run(email, password, origin, begin)
        except Refusal as refusal:
            self._outcomes[refusal.code] += 1
            raise
        self._outcomes["ok"] += 1
        return record

    async def _run(
        self, email: EmailAddress, password: Password | None, origin: ClientInfo, begin: Begin
    ) -> UserRecord:
        """Check the password, begin a session by `begin`, and return the user. `begin` returns None if the account has
        changed since the check; the sign-in then starts again.

        Raises `invalid_credentials`, `account_disabled` and `email_unverified` after the right password, `locked_out`
        and `overloaded`.
        """
        attempt = await self._lockout.attempt(email.canonical, origin.address)
        caller = self._callers.by_address(origin.address)
        for _ in range(_ATTEMPTS):
            found = await self._users.credentials(email.canonical)
            stored = found.password_hash if found else None
            right = await self._passwords.matches(password, stored, caller=caller, check=attempt.check)
            if found is None or found.password_hash is None or password is None or not right:
                await attempt.failed()
                raise Refusal("invalid_credentials", "unknown user" if found is None else "wrong password")
            await attempt.succeeded()
            if not found.is_active:
                raise Refusal("account_disabled")
            if self._verification is not None:
                await self._verification.check(found, email, origin)
            rehashed = await self._rehashed(password, found.password_hash, caller)
            checked = CheckedPassword(found.user_id, found.password_hash, rehashed)
            record = await self._publisher.changed(begin(checked))
            if record is not None:
                return record
        raise Refusal("invalid_credentials", "the account changed during every attempt")

    async def _rehashed(self, password: Password, stored: str, caller: str) -> str | None:
        """A hash of the configured cost if the stored one has another cost."""
        return await self._passwords.hash(password, caller=caller) if self._passwords.is_outdated(stored) else None
