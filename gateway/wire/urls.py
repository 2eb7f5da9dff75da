"""Which URLs are safe from tampering: https, and http on this machine."""

from ipaddress import ip_address
from urllib.parse import urlsplit


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
