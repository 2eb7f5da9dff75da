"""Guessing passwords: how often somebody may be wrong.

Failures are counted twice: for an account and the address they come from together, so that nobody locks a victim out
from elsewhere; and for the address alone over all accounts, so that nobody tries one password on many. Accounts are
told apart by the canonical form of the e-mail address that was given (CVE-2026-47203), whether or not there is such an
account; a whole /64 of IPv6 is one address.

With Redis all replicas share the counts. Redis down: each process goes on from what it knows, and tells Redis of it
afterwards; an outage opens nothing and keeps nobody out. An attempt is looked at when it comes and once more when a
thread is free for it, so of many at once only those that run at the same time may go beyond the count.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from math import ceil
from typing import Final

from gateway.counting import Sample, Tally
from gateway.errors import Refusal, StorageUnavailable
from gateway.limits.callers import Callers
from gateway.limits.failures import Allowance, Counter, Failures, SharedFailures
from gateway.settings.model import LockoutSettings

_BY: Final = ("account", "address")  # what the two counters of an attempt go by
_DIGEST: Final = 32  # hexadecimal digits: names that callers make up cost the same memory, however long they are


class Attempt:
    """One attempt to name the password of an account. Raises nothing but Refusal("locked_out")."""

    __slots__ = ("_counters", "_lockout")

    def __init__(self, lockout: "Lockout", counters: Sequence[Counter]) -> None:
        self._lockout = lockout
        self._counters = counters

    def check(self) -> None:
        """Raise `locked_out` where too many have failed, as far as is known here and now."""
        self._lockout.check(self._counters)

    async def failed(self) -> None:
        """The password was wrong. Counted here before anything is waited for."""
        await self._lockout.count(self._counters)

    async def succeeded(self) -> None:
        """It was right: the account's count for this address begins anew. The address's own goes on, or whoever has one
        account could try all others without end."""
        await self._lockout.forget(self._counters[0])


class Lockout:
    """Counts failed attempts. `shared` is None where this process is the only one; `clock` gives seconds."""

    def __init__(
        self,
        settings: LockoutSettings,
        *,
        shared: SharedFailures | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._of_pair = Allowance(settings.failures, settings.window, settings.ban)
        self._of_address = Allowance(settings.per_address_failures, settings.window, settings.ban)
        self._failures = Failures(lifetime=settings.window + settings.ban)
        self._callers = Callers()
        self._shared = shared
        self._clock = clock
        self._bans = Tally("gateway_lockouts_total")

    def samples(self) -> Iterator[Sample]:
        """How many bans began here."""
        yield from self._bans.samples()

    def __len__(self) -> int:
        return len(self._failures)

    async def attempt(self, canonical: str, address: str) -> Attempt:
        """Somebody at this address wants to name the password of the account with this canonical e-mail address.

        Raises `locked_out`, for as long as `Retry-After` says.
        """
        account, caller = account_owner(canonical), address_owner(self._callers.by_address(address))
        pair = Counter(account, f"{account}:{caller}", self._of_pair)
        attempt = Attempt(self, (pair, Counter(caller, f"{caller}:all", self._of_address)))
        await self._ask(attempt._counters)
        attempt.check()
        return attempt

    def check(self, counters: Sequence[Counter]) -> None:
        """Raise `locked_out` while one of them is banned."""
        now = self._clock()
        wait = max(self._failures.wait(counter, now) for counter in counters)
        if wait > 0:
            raise Refusal("locked_out", "too many failed attempts", retry_after=ceil(wait))

    async def count(self, counters: Sequence[Counter]) -> None:
        """Count a failure of each."""
        now = self._clock()
        for by, counter in zip(_BY, counters, strict=True):
            was_banned = self._failures.wait(counter, now) > 0
            self._failures.failed(counter, now)
            if not was_banned and self._failures.wait(counter, now) > 0:
                self._bans.add(by)
        await self._ask(counters)

    async def forget(self, counter: Counter) -> None:
        """Begin a count anew, here and, where it answers, in the shared store."""
        self._failures.forget(counter)
        if self._shared is None or not self._shared.available:
            return
        try:
            await self._shared.forget(counter)
        except StorageUnavailable:
            return  # the count there ends by itself

    async def _ask(self, counters: Sequence[Counter]) -> None:
        """Tell the shared store what it does not know yet, and learn how these counts stand there."""
        if self._shared is None or not self._shared.available:
            return
        now = self._clock()
        reports = [self._failures.take_debt(counter, now) for counter in counters]
        told = False
        try:
            standings = await self._shared.report(reports)
            told = True
        except StorageUnavailable:
            return
        finally:
            if not told:  # also where the caller left: what was counted stays counted
                for report in reports:
                    self._failures.give_back(report, now)
        now = self._clock()
        for counter, standing in zip(counters, standings, strict=True):
            self._failures.learn(counter, standing, now)


def account_owner(canonical: str) -> str:
    """By which name the counts of an account go."""
    return _digest("account", canonical)


def address_owner(caller: str) -> str:
    """By which name the counts of an address go; `caller` as Callers names it."""
    return _digest("address", caller)


def _digest(kind: str, name: str) -> str:
    """Of one length, and nobody's e-mail address in clear. In braces: a cluster of Redis keeps together what has the
    same there."""
    return f"{{{sha256(f'{kind} {name}'.encode()).hexdigest()[:_DIGEST]}}}"
