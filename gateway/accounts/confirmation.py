"""Confirmation of sensitive changes: by the current password, or by a recent authentication.

A valid credential is not enough: a stolen one is valid for a while, and a new password or API key would extend the
access of the thief.
"""

from gateway.accounts.lockout import Lockout
from gateway.accounts.passwords import Password, PasswordPool
from gateway.accounts.store import AccountStore, StoredPassword
from gateway.errors import Refusal
from gateway.identity.principal import not_fresh
from gateway.identity.user import Claims
from gateway.settings.model import Settings
from gateway.wire.addresses import Callers


class Confirmation:
    """Checks current passwords. Wrong ones count for the lockout like failed logins."""

    def __init__(self, users: AccountStore, passwords: PasswordPool, lockout: Lockout) -> None:
        self._users = users
        self._passwords = passwords
        self._lockout = lockout
        self._callers = Callers()

    async def confirm(self, user_id: str, current: Password | None, address: str) -> StoredPassword:
        """The stored password data that `current` matches. `address` is the client's.

        Raises `invalid_credentials` for a wrong password, `locked_out` after too many of them, and `overloaded`.
        """
        found = await self._users.credentials_of(user_id)
        if found is None:
            raise wrong_password()
        attempt = await self._lockout.attempt(found.canonical, address)
        caller = self._callers.by_address(address)
        if not await self._passwords.matches(current, found.password_hash, caller=caller, check=attempt.check):
            await attempt.failed()
            raise wrong_password()
        await attempt.succeeded()
        return found


def require_fresh(claims: Claims, settings: Settings, *, now: float) -> None:
    """Raise `reauthentication_required` unless the caller has signed in or confirmed within `accounts.fresh`. `now` is
    in seconds since the epoch."""
    refusal = not_fresh(claims, settings.accounts.fresh, now=now, leeway=settings.tokens.leeway)
    if refusal is not None:
        raise refusal


def wrong_password() -> Refusal:
    return Refusal("invalid_credentials", "wrong current password", detail="The current password is not correct")
