"""Roles: the hierarchy, the validation of names, and the roles of administrators.

`admin` can imply `editor`, and then passes every rule for editors.
"""

from collections.abc import Iterable, Mapping
from typing import Final

from gateway.settings.model import Settings
from gateway.settings.reader import InvalidValue
from gateway.settings.syntax import role_name

# Distinct sets of roles in the cache. Few are common, but an external issuer can send any combination.
_MOST_REMEMBERED: Final = 4096


class RoleHierarchy:
    """Expands roles by the roles they imply.

    Equal results are one object, because a hundred thousand principals share a few sets.
    """

    __slots__ = ("_direct", "_interned", "_remembered")

    def __init__(self, roles: Mapping[str, Iterable[str]] | None) -> None:
        """`roles` maps each role to the roles it implies directly. None if no roles are declared."""
        self._direct = {role: tuple(implied) for role, implied in (roles or {}).items()}
        self._remembered: dict[frozenset[str], frozenset[str]] = {}
        self._interned: dict[frozenset[str], frozenset[str]] = {}

    def expand(self, roles: frozenset[str]) -> frozenset[str]:
        """The given roles and all roles they imply, directly or indirectly. Undeclared roles imply nothing."""
        known = self._remembered.get(roles)
        if known is None:
            if len(self._remembered) >= _MOST_REMEMBERED:
                self._remembered.clear()
                self._interned.clear()
            expanded = self._closure(roles)
            known = self._remembered[roles] = self._interned.setdefault(expanded, expanded)
        return known

    def chains(self, roles: Iterable[str]) -> dict[str, tuple[str, ...]]:
        """The expansion, with the shortest chain of roles that implies each role. Own roles have an empty chain."""
        found: dict[str, tuple[str, ...]] = dict.fromkeys(sorted(roles), ())
        waiting = list(found)
        for role in waiting:  # Breadth-first: the list grows during the iteration.
            for implied in self._direct.get(role, ()):
                if implied not in found:
                    found[implied] = (*found[role], role)
                    waiting.append(implied)
        return found

    def _closure(self, roles: frozenset[str]) -> frozenset[str]:
        """The transitive closure. Terminates on cycles too, which the configuration reader rejects."""
        found = set(roles)
        waiting = list(roles)
        while waiting:
            for implied in self._direct.get(waiting.pop(), ()):
                if implied not in found:
                    found.add(implied)
                    waiting.append(implied)
        return frozenset(found)


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
