"""Which roles there are: names that are not declared, and hierarchies that go round in a circle."""

from collections.abc import Iterable, Mapping

from gateway.settings.model import Settings
from gateway.settings.reader import Reader, known, quoted

Hierarchy = Mapping[str, tuple[str, ...]]


def check_roles(settings: Settings, reader: Reader) -> None:
    """Report roles that are named somewhere and not declared, where roles are declared, and circles."""
    roles, declared = settings.roles, reader.defined.get("roles")
    if roles is None or declared is None:
        return
    for path, role in reader.roles_named:
        if role not in declared:
            reader.report_at(path, f"{quoted(role)} is not a declared role ({known(declared)})")
    reported: set[str] = set()
    for name in roles:
        circle = _circle(name, roles) if name not in reported else []
        if circle:
            reported.update(circle)
            message = f"implies itself: {' > '.join([*circle, name])} (break the circle)"
            reader.report_at(f"roles.{name}", message)


def implied(granted: Iterable[str], roles: Hierarchy) -> set[str]:
    """The roles that some roles amount to, with all that they imply."""
    found: set[str] = set()
    waiting = list(granted)
    while waiting:
        role = waiting.pop()
        if role not in found:
            found.add(role)
            waiting += roles.get(role, ())
    return found


def _circle(start: str, roles: Hierarchy) -> list[str]:
    """The roles on the shortest way from a role back to itself; nothing if there is no such way."""
    came_from: dict[str, str] = {}
    waiting = [start]
    for role in waiting:  # grows as it goes
        for each in roles.get(role, ()):
            if each == start:
                way = [role]
                while way[-1] != start:
                    way.append(came_from[way[-1]])
                return way[::-1]
            if each not in came_from:
                came_from[each] = role
                waiting.append(each)
    return []
