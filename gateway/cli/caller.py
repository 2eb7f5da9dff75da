"""The caller of a request to explain: described by options, or an account from the database."""

from gateway.analysis.explain import SIGNED_IN, Person, State
from gateway.errors import CannotStart
from gateway.identity.user import UserRecord
from gateway.settings.model import Settings


def person(settings: Settings, user: str | None, roles: tuple[str, ...], *, anonymous: bool) -> Person | None:
    """The caller described by options: anonymous, a user with these roles, or an account by id or address.

    A user with roles is hypothetical, and no account is read. Raises CannotStart and StorageUnavailable if an account
    cannot be read.
    """
    if anonymous:
        return None
    if roles:
        return Person(user or "", frozenset(roles))
    if user is not None and "|" in user:
        raise CannotStart(f"{user} is of another issuer and has no account here; give its roles with --role")
    return SIGNED_IN if user is None else _account(settings, user)


def _account(settings: Settings, user: str) -> Person:
    import asyncio  # a fifth of the start-up time, and only a real account needs it

    record = asyncio.run(_read(settings, user))
    if record is None:
        return Person(user, state="unknown")
    state: State = "active" if record.is_active else "disabled"
    return Person(record.id, record.roles, record.email, state, record.email_verified)


async def _read(settings: Settings, user: str) -> UserRecord | None:
    # Imported here: SQLAlchemy takes longer than everything else, and only a real account needs it.
    from gateway.accounts.emails import email_address
    from gateway.cli.stores import open_database
    from gateway.storage.schema import command_to_run, is_current
    from gateway.storage.users import Users

    async with open_database(settings) as database:
        if not await is_current(database):
            command = command_to_run(settings.position_of("storage").file)
            raise CannotStart(f"storage.database does not have the tables of this version; run: {command}")
        if "@" not in user:
            return await Users(database).user(user)
        try:
            return await Users(database).by_email(email_address(user).canonical)
        except ValueError:  # not an address, so no account has it
            return None
