"""Who a peer is by its address: one of the networks that a list names, or not."""

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final

_Network = IPv4Network | IPv6Network

# Peers come from anywhere, IPv6 ones without number: the memory of answers is emptied when it is full.
_MOST_REMEMBERED: Final = 4096


class Networks:
    """A list of networks, asked by the text of an address; each distinct address is looked up once."""

    def __init__(self, networks: Iterable[_Network]) -> None:
        self._networks = tuple(networks)
        self._remembered: dict[str, bool] = {}

    def contains(self, address: str) -> bool:
        """Whether the address lies in one of them. What is no address (that of a Unix socket) lies in
        none."""
        known = self._remembered.get(address)
        if known is None:
            known = self._look_up(address)
            if len(self._remembered) >= _MOST_REMEMBERED:
                self._remembered.clear()
            self._remembered[address] = known
        return known

    def _look_up(self, text: str) -> bool:
        try:
            address = _plain_address(text)
        except ValueError:
            return False
        return any(address in network for network in self._networks)


class TrustedProxies(Networks):
    """The peers whose X-Forwarded-* fields are believed. `clients` are the callers that were found behind them lately,
    by peer and X-Forwarded-For."""

    def __init__(self, networks: Iterable[_Network]) -> None:
        super().__init__(networks)
        self.clients: dict[tuple[str, bytes], str] = {}

    def trusts(self, peer: str) -> bool:
        """Whether what this peer says of the caller behind it is believed. `peer` is the socket's address."""
        return self.contains(peer)


def _plain_address(text: str) -> IPv4Address | IPv6Address:
    """The address itself. A socket that serves both families shows 10.0.0.1 as ::ffff:10.0.0.1: one peer, one
    answer. Raises ValueError where the text is no address."""
    address = ip_address(text)
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped if mapped is not None else address
