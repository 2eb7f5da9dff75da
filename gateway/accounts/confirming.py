"""The current password as a proof that the holder of an account acts, where an access token is not enough: a stolen one
lasts for minutes, and a new password or a new API key would last for longer."""

from gateway.accounts.lockout import Lockout
from gateway.accounts.passwords import Password, PasswordPool
from gateway.errors import Refusal
from gateway.identity.accounts import AccountStore, Credentials
from gateway.limits.callers import Callers


class Confirmation:
    """Checks current passwords. Wrong ones count for the lockout like those of a login."""

    def __init__(self, users: AccountStore, passwords: PasswordPool, lockout: Lockout) -> None:
        self._users = users
        self._passwords = passwords
        self._lockout = lockout
        self._callers = Callers()

    async def confirm(self, user_id: str, current: Password | None, address: str) -> Credentials:
        """The credentials that a current password was checked against. `address` is that of the client.

        Raises `invalid_credentials` for a wrong one, `locked_out` after too many of those, and `overloaded`.
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


def wrong_password() -> Refusal:
    """The refusal of a wrong current password."""
    return Refusal("invalid_credentials", "wrong current password", detail="The current password is not correct")
