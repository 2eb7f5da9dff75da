"""Who is counted where a limit goes by address."""

from ipaddress import IPv6Address, ip_address
from typing import Final

# No id of a user begins with it: those of this gateway are hexadecimal, those of issuers begin with a letter or digit.
_MARK: Final = "@"
_PREFIX: Final = 64  # bits of an IPv6 address that a network has; the others its hosts choose, and change, at will
_MOST_REMEMBERED: Final = 4096


class Callers:
    """Names callers by their addresses; each distinct address is looked at once."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[str, str] = {}

    def by_address(self, address: str) -> str:
        """The caller at an address. A whole /64 of IPv6 is one, or one host could be any number of callers. All who
        have no address (behind a Unix socket) are one."""
        known = self._known.get(address)
        if known is None:
            if len(self._known) >= _MOST_REMEMBERED:
                self._known.clear()
            known = self._known[address] = _MARK + _network(address)
        return known


def _network(text: str) -> str:
    try:
        address = ip_address(text)
    except ValueError:
        return ""
    if not isinstance(address, IPv6Address):
        return str(address)
    if address.ipv4_mapped is not None:  # a socket that serves both families shows 10.0.0.1 as ::ffff:10.0.0.1
        return str(address.ipv4_mapped)
    host_bits = 128 - _PREFIX
    return f"{IPv6Address(int(address) >> host_bits << host_bits)}/{_PREFIX}"
