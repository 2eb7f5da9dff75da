"""Peer addresses: membership in lists of networks, and the client keys of limits."""

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final
from urllib.parse import urlsplit

# No user id begins with it: local ids are hexadecimal, external ones begin with a letter or digit.
_MARK: Final = "@"
_PREFIX: Final = 64  # The network part of an IPv6 address, in bits. Hosts choose and change the remaining bits.
# A full cache is cleared, because the number of IPv6 peers is unbounded. An ASGI server can pass any text of
# X-Forwarded-For as the address of a peer, so long texts are not kept.
_MOST_REMEMBERED: Final = 4096
_LONGEST_REMEMBERED: Final = 64  # In characters.


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
            known = _MARK + _network(address)
            if len(address) <= _LONGEST_REMEMBERED:
                if len(self._known) >= _MOST_REMEMBERED:
                    self._known.clear()
                self._known[address] = known
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


_Network = IPv4Network | IPv6Network


class Networks:
    """A list of networks. Each distinct address is looked up once."""

    def __init__(self, networks: Iterable[_Network]) -> None:
        self._networks = tuple(networks)
        self._remembered: dict[str, bool] = {}

    def contains(self, address: str) -> bool:
        """Whether one of the networks contains the address. False for other text, such as the name of a Unix socket."""
        known = self._remembered.get(address)
        if known is None:
            known = self._look_up(address)
            if len(address) <= _LONGEST_REMEMBERED:
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
    """The peers whose X-Forwarded-* fields are trusted. `clients` caches client addresses by peer and
    X-Forwarded-For."""

    def __init__(self, networks: Iterable[_Network]) -> None:
        super().__init__(networks)
        self.clients: dict[tuple[str, bytes], str] = {}

    def trusts(self, peer: str) -> bool:
        """Whether the forwarding fields of this peer are trusted. `peer` is the socket's address."""
        return self.contains(peer)


def _plain_address(text: str) -> IPv4Address | IPv6Address:
    """The address, with IPv4-mapped IPv6 addresses as IPv4: a dual-stack socket reports 10.0.0.1 as ::ffff:10.0.0.1.
    Raises ValueError for other text."""
    address = ip_address(text)
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped if mapped is not None else address


# Which URLs are safe from tampering: https, and http on this machine.
def is_loopback(address: str) -> bool:
    """Whether the host of a URL is this machine: a loopback address, or `localhost` (RFC 6761 6.3)."""
    try:
        host = urlsplit(address).hostname or ""
    except ValueError:
        return False
    return is_loopback_host(host)


def is_loopback_host(host: str) -> bool:
    """The same for a host alone."""
    host = host.rstrip(".").lower()
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_trusted_transport(address: str) -> bool:
    """Whether content fetched from the URL is authentic: over TLS, or without leaving this machine."""
    return address.lower().startswith("https://") or (address.lower().startswith("http://") and is_loopback(address))
