"""The first administrator is made at the machine, by a command. Nothing that can be sent to a gateway makes one: a way
that is open until somebody has gone through it is open to whoever comes first."""

import shlex

from gateway.accounts.administration import Administration
from gateway.accounts.roles import admin_roles
from gateway.errors import StorageUnavailable


async def how_to_make_one(administration: Administration) -> str | None:
    """The command to run, where nobody may administrate: no active account here, and nobody of another issuer."""
    settings = administration.settings
    mapped = {role for issuer in settings.tokens.external for role in issuer.role_map.values()}
    try:
        if not admin_roles(settings).isdisjoint(mapped) or await administration.has_admin():
            return None
    except StorageUnavailable:
        return None
    file = settings.position_of("accounts").file
    words = ["gateway", "users", "create", "EMAIL", "--role", settings.accounts.admin_role]
    return shlex.join([*words, "--config", file] if file else words)
