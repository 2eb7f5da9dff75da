"""Who the caller is behind the proxies in front of us."""

from ipaddress import ip_address
from typing import Final

from gateway.wire.addresses import TrustedProxies

# Reading addresses costs 6 µs each; behind a proxy the same callers come again and again.
_MOST_REMEMBERED: Final = 4096
_REMEMBERED_LENGTH: Final = 256  # bytes
_MOST_PROXIES: Final = 32  # in a row; a longer chain is a loop, or made up


def client_address(peer: str, forwarded_for: bytes, proxies: TrustedProxies) -> str:
    """The caller's address: the last one in X-Forwarded-For, read from the right, that is no proxy of ours.

    Each proxy appends the address that it saw itself, so what stands left of the first stranger is that stranger's
    own claim. An entry that is no address ends the search at the last proxy that vouched: better one of ours than a
    made-up name. `peer` is the socket's address and already trusted.
    """
    known = proxies.clients.get((peer, forwarded_for))
    if known is None:
        known = _found(peer, forwarded_for, proxies)
        if len(forwarded_for) <= _REMEMBERED_LENGTH:
            if len(proxies.clients) >= _MOST_REMEMBERED:
                proxies.clients.clear()  # callers choose the values
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
    """The address in `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1` or `[2001:db8::1]:80`; None if there is none.

    An address with a zone (`fe80::1%eth0`, RFC 4007 11) is none: it means nothing beyond one link, and a zone can be
    of any length.
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
