"""Validation of role names, and the roles of administrators."""

from collections.abc import Iterable

from gateway.policy.roles import RoleHierarchy
from gateway.settings.model import Settings
from gateway.settings.reader import InvalidValue
from gateway.settings.syntax import role_name


def accepted_roles(names: Iterable[str], settings: Settings) -> frozenset[str]:
    """Validate role names. Raises ValueError with a message for a malformed name, and for one that is not among the
    declared roles: a typo must not create a role that no rule requires."""
    roles = frozenset(names)
    known = _declared(settings)
    for name in sorted(roles):
        if not name or not name.isprintable() or not _is_role_name(name):
            raise ValueError("must be role names: up to 128 printable characters, no space around them")
        if known is not None and name not in known:
            raise ValueError(f"{name!r} is not a declared role (known: {', '.join(sorted(known))})")
    return roles


def admin_roles(settings: Settings) -> frozenset[str]:
    """The roles with administrator rights: the configured role and every role that implies it."""
    admin = settings.accounts.admin_role
    hierarchy = RoleHierarchy(settings.roles)
    return frozenset({admin, *(role for role in settings.roles or () if admin in hierarchy.expand(frozenset((role,))))})


def _declared(settings: Settings) -> frozenset[str] | None:
    if settings.roles is None:
        return None
    implied = (role for implies in settings.roles.values() for role in implies)
    return frozenset((*settings.roles, *implied, settings.accounts.admin_role, *settings.accounts.default_roles))


def _is_role_name(name: str) -> bool:
    try:
        return role_name(name) == name
    except InvalidValue:
        return False
