"""Roles that imply others: an admin passes wherever an editor is asked for."""

from collections.abc import Iterable, Mapping
from typing import Final

# Distinct sets of roles remembered. There are few; but an external issuer may send any.
_MOST_REMEMBERED: Final = 4096


class RoleHierarchy:
    """Expands a user's own roles by all that they imply.

    Equal sets come back as one object: a hundred thousand principals share a handful of sets.
    """

    __slots__ = ("_direct", "_interned", "_remembered")

    def __init__(self, roles: Mapping[str, Iterable[str]] | None) -> None:
        """`roles` maps each role to those that it implies directly; None where no roles are declared."""
        self._direct = {role: tuple(implied) for role, implied in (roles or {}).items()}
        self._remembered: dict[frozenset[str], frozenset[str]] = {}
        self._interned: dict[frozenset[str], frozenset[str]] = {}

    def expand(self, roles: frozenset[str]) -> frozenset[str]:
        """The roles and all that they imply, directly or not. A role that is not declared implies nothing."""
        known = self._remembered.get(roles)
        if known is None:
            if len(self._remembered) >= _MOST_REMEMBERED:
                self._remembered.clear()
                self._interned.clear()
            expanded = self._closure(roles)
            known = self._remembered[roles] = self._interned.setdefault(expanded, expanded)
        return known

    def chains(self, roles: Iterable[str]) -> dict[str, tuple[str, ...]]:
        """Every role that these come to, with the shortest chain of roles that implies it, an own one first; own
        roles have an empty one."""
        found: dict[str, tuple[str, ...]] = dict.fromkeys(sorted(roles), ())
        waiting = list(found)
        for role in waiting:  # grows while it is gone through: the nearest ones come first
            for implied in self._direct.get(role, ()):
                if implied not in found:
                    found[implied] = (*found[role], role)
                    waiting.append(implied)
        return found

    def _closure(self, roles: frozenset[str]) -> frozenset[str]:
        """Circles are refused when a file is read; here they end by themselves."""
        found = set(roles)
        waiting = list(roles)
        while waiting:
            for implied in self._direct.get(waiting.pop(), ()):
                if implied not in found:
                    found.add(implied)
                    waiting.append(implied)
        return frozenset(found)
