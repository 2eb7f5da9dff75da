"""Client keys for limits by address."""

from ipaddress import IPv6Address, ip_address
from typing import Final

# No user id begins with it: local ids are hexadecimal, external ones begin with a letter or digit.
_MARK: Final = "@"
_PREFIX: Final = 64  # The network part of an IPv6 address, in bits. Hosts choose and change the remaining bits.
_MOST_REMEMBERED: Final = 4096


class Callers:
    """Names clients by address. Parses each distinct address once."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[str, str] = {}

    def by_address(self, address: str) -> str:
        """The key of a client address. An IPv6 /64 counts as one client, because one host can use any of its addresses.
        All clients without an address (behind a Unix socket) share one key."""
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
    if address.ipv4_mapped is not None:  # A dual-stack socket reports 10.0.0.1 as ::ffff:10.0.0.1.
        return str(address.ipv4_mapped)
    host_bits = 128 - _PREFIX
    return f"{IPv6Address(int(address) >> host_bits << host_bits)}/{_PREFIX}"
