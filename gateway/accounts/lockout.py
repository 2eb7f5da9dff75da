"""Lockout after failed password attempts, and the service behind `gateway users unlock`.

Failures are counted per account and client address together, so that an attacker elsewhere cannot lock a victim out;
and per address over all accounts, which stops trying one password on many accounts. Accounts are identified by the
canonical form of the given address (CVE-2026-47203), whether or not the account exists. An IPv6 /64 counts as one
address.

With Redis all replicas share the counts. During an outage of Redis each process continues from its own knowledge and
reports it afterwards: the outage neither allows more attempts nor locks users out. An attempt is checked on arrival and
again when a thread is free for it, so only attempts that run at the same time can exceed the allowance.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from math import ceil
from typing import Final, Protocol

from gateway.accounts.commands import EmailOnly
from gateway.accounts.failed_attempts import Allowance, Counter, FailedAttempts, SharedFailures
from gateway.accounts.inputs import accept
from gateway.errors import Refusal, StorageUnavailable
from gateway.identity.user import COMMAND_LINE, Actor, UserRecord
from gateway.samples import LabeledCounter, Sample
from gateway.settings.model import LockoutSettings, Settings
from gateway.wire.addresses import Callers

_BY: Final = ("account", "address")  # Labels of the two counters of an attempt.
_DIGEST: Final = 32  # In hexadecimal digits. Names chosen by clients cost the same memory, however long they are.


class FailedAttempt:
    """One attempt to log in to an account. Raises nothing but Refusal("locked_out")."""

    __slots__ = ("_counters", "_lockout")

    def __init__(self, lockout: "Lockout", counters: Sequence[Counter]) -> None:
        self._lockout = lockout
        self._counters = counters

    def check(self) -> None:
        """Raise `locked_out` if too many attempts have failed, by the local state."""
        self._lockout.check(self._counters)

    async def failed(self) -> None:
        """Record a wrong password. Counted locally before the first await."""
        await self._lockout.count(self._counters)

    async def succeeded(self) -> None:
        """Record a correct password: resets the account's count for this address. The count of the address continues;
        otherwise an attacker with one account could reset it at will."""
        await self._lockout.forget(self._counters[0])


class Lockout:
    """Counts failed attempts. `shared` is None for a single process; `clock` returns seconds."""

    def __init__(
        self,
        settings: LockoutSettings,
        *,
        shared: SharedFailures | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._of_pair = Allowance(settings.failures, settings.window, settings.ban)
        self._of_address = Allowance(settings.per_address_failures, settings.window, settings.ban)
        self._failures = FailedAttempts(lifetime=settings.window + settings.ban)
        self._callers = Callers()
        self._shared = shared
        self._clock = clock
        self._bans = LabeledCounter("gateway_lockouts_total")

    def samples(self) -> Iterator[Sample]:
        """The number of bans."""
        yield from self._bans.samples()

    def __len__(self) -> int:
        return len(self._failures)

    async def attempt(self, canonical: str, address: str) -> FailedAttempt:
        """Begin an attempt for the account with this canonical address, from a client address.

        Raises `locked_out` with the remaining time in `Retry-After`.
        """
        account, caller = account_owner(canonical), address_owner(self._callers.by_address(address))
        pair = Counter(account, f"{account}:{caller}", self._of_pair)
        attempt = FailedAttempt(self, (pair, Counter(caller, f"{caller}:all", self._of_address)))
        await self._ask(attempt._counters)
        attempt.check()
        return attempt

    def check(self, counters: Sequence[Counter]) -> None:
        """Raise `locked_out` while one of the counters is banned."""
        now = self._clock()
        wait = max(self._failures.wait(counter, now) for counter in counters)
        if wait > 0:
            raise Refusal("locked_out", "too many failed attempts", retry_after=ceil(wait))

    async def count(self, counters: Sequence[Counter]) -> None:
        """Count a failure on each counter."""
        now = self._clock()
        for by, counter in zip(_BY, counters, strict=True):
            was_banned = self._failures.wait(counter, now) > 0
            self._failures.failed(counter, now)
            if not was_banned and self._failures.wait(counter, now) > 0:
                self._bans.add(by)
        await self._ask(counters)

    async def forget(self, counter: Counter) -> None:
        """Reset a counter, locally and in the shared store if available."""
        self._failures.forget(counter)
        if self._shared is None or not self._shared.available:
            return
        try:
            await self._shared.forget(counter)
        except StorageUnavailable:
            return  # the shared count expires by itself

    async def _ask(self, counters: Sequence[Counter]) -> None:
        """Report unreported failures to the shared store, and update the local state."""
        if self._shared is None or not self._shared.available:
            return
        now = self._clock()
        reports = [self._failures.take_debt(counter, now) for counter in counters]
        answered = False
        try:
            standings = await self._shared.report(reports)
            answered = True
        except StorageUnavailable:
            return
        finally:
            if not answered:  # also on cancellation: counted failures stay counted
                for report in reports:
                    self._failures.give_back(report, now)
        now = self._clock()
        for counter, standing in zip(counters, standings, strict=True):
            self._failures.learn(counter, standing, now)


def account_owner(canonical: str) -> str:
    """The name that groups the counters of an account."""
    return _digest("account", canonical)


def address_owner(caller: str) -> str:
    """The name that groups the counters of an address; `caller` is a key from Callers."""
    return _digest("address", caller)


def _digest(kind: str, name: str) -> str:
    """A digest has a fixed length and hides the email address. A Redis cluster places keys with equal text in braces on
    the same node."""
    return f"{{{sha256(f'{kind} {name}'.encode()).hexdigest()[:_DIGEST]}}}"


class UnlockedAccounts(Protocol):
    """The part of the account store that unlocking needs."""

    async def by_email(self, canonical: str) -> UserRecord | None:
        """The account with this address."""

    async def note_unlocked(self, user_id: str, *, address: str | None, by: Actor) -> None:
        """Write an audit record."""


async def unlock(
    email: str,
    address: str | None,
    *,
    users: UnlockedAccounts,
    failures: SharedFailures,
    settings: Settings,
    by: Actor = COMMAND_LINE,
) -> UserRecord:
    """Reset the failures of an account from all addresses, and all failures of `address` if given.

    Running gateways see the reset with the next attempt. Raises Refusal `invalid_fields` or `not_found`, and
    StorageUnavailable if a store is down; repeating the reset is harmless.
    """
    canonical = accept(EmailOnly, {"email": email}, settings).email.canonical
    record = await users.by_email(canonical)
    if record is None:
        raise Refusal("not_found", detail="No account has this e-mail address")
    owners = [account_owner(canonical)]
    if address is not None:
        owners.append(address_owner(Callers().by_address(address)))
    lockout = settings.accounts.lockout
    await failures.reset(owners, lifetime=lockout.window + lockout.ban)
    await users.note_unlocked(record.id, address=address, by=by)
    return record
