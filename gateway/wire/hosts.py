"""The canonical host of a request, in exactly one spelling.

Names are lower-cased, and port and one trailing dot are removed (CVE-2021-39155: `ADMIN.example.com` evaded the rule
for `admin.example.com`). Characters that RFC 3986 3.2.2 allows in a registered name but no network host contains are
refused: percent-encoding, which gives one name many spellings, and sub-delimiters, including the comma that separates
the members of X-Forwarded-Host.
"""

import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from ipaddress import IPv6Address
from typing import Final

from gateway.errors import Refusal

# RFC 9112 3.2: Host = uri-host [ ":" port ]; the port can be empty (RFC 3986 3.2.3).
_HOST: Final = re.compile(
    rb"(?:\[(?P<ipv6>[0-9A-Fa-f:.]{2,45})\]|(?P<name>[\w~-]++(?:\.[\w~-]++)*+)\.?)(?::(?P<port>[0-9]{0,5}))?"
)
_LONGEST_NAME: Final = 253  # In characters: RFC 1035 2.3.4 without its length octets.
_HIGHEST_PORT: Final = 65535


def _canonical_host(raw: bytes) -> bytes:
    """The canonical form of a Host field or an authority: lower case, without port and trailing dot, IPv6 in brackets.

    Raises Refusal `bad_host` if it is empty or malformed, contains user information, or has a port out of range.
    """
    host = _HOST.fullmatch(raw)
    if host is None:
        raise Refusal("bad_host", "the host is not a name, an address, or one of these with a port")
    if int(host["port"] or 0) > _HIGHEST_PORT:
        raise Refusal("bad_host", "the port of the host is out of range")
    if host["ipv6"] is not None:
        return _canonical_ipv6(host["ipv6"])
    if len(host["name"]) > _LONGEST_NAME:
        raise Refusal("bad_host", "the host name is too long")
    return host["name"].lower()


def _canonical_ipv6(text: bytes) -> bytes:
    """An IPv6 literal in its shortest form (RFC 5952), so that each address has one spelling."""
    try:
        return b"[%b]" % str(IPv6Address(text.decode("ascii"))).encode("ascii")
    except ValueError:
        raise Refusal("bad_host", "the host is not a valid IPv6 address") from None


# Bounded, because clients can send any host. Refusals are not cached.
canonical_host: Final[Callable[[bytes], bytes]] = lru_cache(maxsize=4096)(_canonical_host)


WILDCARD = "*."


# The hosts that `server.hosts` lists.
#
# A host that an attacker chooses reaches links, redirects and caches of applications that believe it (host header
# injection). Applications with a list of their own, such as Django's ALLOWED_HOSTS, answer 400 to any other host.
class ServedHosts:
    """A set of canonical hosts. `*.example.com` holds every name below example.com, and not example.com itself, as in
    nginx, Envoy and the Gateway API of Kubernetes."""

    __slots__ = ("_names", "_suffixes")

    def __init__(self, hosts: Iterable[str]) -> None:
        hosts = tuple(hosts)
        self._names = frozenset(canonical_host(host.encode("ascii")) for host in hosts if not host.startswith(WILDCARD))
        self._suffixes = tuple(host[1:].lower().encode("ascii") for host in hosts if host.startswith(WILDCARD))

    def __contains__(self, host: bytes) -> bool:
        return host in self._names or host.endswith(self._suffixes)

    def covers(self, host: str) -> bool:
        """Whether every host that an entry of `server.hosts` stands for is in the set."""
        if host.startswith(WILDCARD):
            return host[1:].lower().encode("ascii").endswith(self._suffixes)
        return canonical_host(host.encode("ascii")) in self
