"""The client address behind trusted proxies."""

from ipaddress import ip_address
from typing import Final

from gateway.wire.addresses import TrustedProxies

# Parsing takes 6 µs per address, and proxies forward the same clients repeatedly.
_MOST_REMEMBERED: Final = 4096
_REMEMBERED_LENGTH: Final = 256  # In bytes.
_MOST_PROXIES: Final = 32  # In a row. A longer chain is a loop or forged.


def client_address(peer: str, forwarded_for: bytes, proxies: TrustedProxies) -> str:
    """The client's address: the last address in X-Forwarded-For, from the right, that is not a trusted proxy.

    Each proxy appends the address of its peer, so everything left of the first untrusted address is a claim of that
    peer. An entry that is not an address ends the search at the last trusted proxy: its address is preferable to an
    invented name. `peer` is the socket's address and already trusted.
    """
    known = proxies.clients.get((peer, forwarded_for))
    if known is None:
        known = _found(peer, forwarded_for, proxies)
        if len(forwarded_for) <= _REMEMBERED_LENGTH:
            if len(proxies.clients) >= _MOST_REMEMBERED:
                proxies.clients.clear()  # clients choose the values
            proxies.clients[peer, forwarded_for] = known
    return known


def _found(peer: str, forwarded_for: bytes, proxies: TrustedProxies) -> str:
    client = peer
    entries = forwarded_for.decode("latin-1").rsplit(",", _MOST_PROXIES)
    for entry in entries[-_MOST_PROXIES:][::-1]:
        address = _without_port(entry.strip(" \t"))
        if address is None:
            return client
        client = address
        if not proxies.trusts(address):
            return client
    return client


def _without_port(entry: str) -> str | None:
    """The address in `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1` or `[2001:db8::1]:80`; None for other text.

    Addresses with a zone (`fe80::1%eth0`, RFC 4007 11) give None: they are meaningless beyond one link, and a zone can
    have any length.
    """
    if entry.startswith("["):
        entry = entry[1:].partition("]")[0]
    elif entry.count(":") == 1:
        entry = entry.partition(":")[0]
    if "%" in entry:
        return None
    try:
        return str(ip_address(entry))
    except ValueError:
        return None
