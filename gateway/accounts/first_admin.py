"""Instructions for creating the first administrator, which only a command on the machine can do.

No request to the gateway creates one: a one-time setup page would be open to the first visitor.
"""

import shlex

from gateway.accounts.administration import Administration
from gateway.accounts.roles import admin_roles
from gateway.errors import StorageUnavailable


async def how_to_make_one(administration: Administration) -> str | None:
    """The command to run if no administrator exists: no active account, and no role mapping of an external issuer."""
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
