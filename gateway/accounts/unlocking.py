"""Reset failed login attempts: the service behind `gateway users unlock`."""

from typing import Protocol

from gateway.accounts.bodies import EmailOnly
from gateway.accounts.declaring import accept
from gateway.accounts.lockout import account_owner, address_owner
from gateway.errors import Refusal
from gateway.identity.accounts import COMMAND_LINE, Actor
from gateway.identity.user import UserRecord
from gateway.limits.failures import SharedFailures
from gateway.settings.model import Settings
from gateway.wire.addresses import Callers


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
    await failures.pardon(owners, lifetime=lockout.window + lockout.ban)
    await users.note_unlocked(record.id, address=address, by=by)
    return record
