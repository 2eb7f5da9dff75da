"""The Host of a request, as one name: what routes are chosen by and what is never compared in two spellings.

A name is lower-cased, its port and one trailing dot are taken off (CVE-2021-39155: `ADMIN.example.com`
passed by the rule for `admin.example.com`). What RFC 3986 3.2.2 would allow in a registered name and no
host on a network has is refused: percent-encoding, which would spell one name in many ways, and the
sub-delimiters, among them the comma that separates the members of X-Forwarded-Host.
"""

import re
from collections.abc import Callable
from functools import lru_cache
from ipaddress import IPv6Address
from typing import Final

from gateway.errors import Refusal

# RFC 9112 3.2: Host = uri-host [ ":" port ]; the port may be empty (RFC 3986 3.2.3).
_HOST: Final = re.compile(
    rb"(?:\[(?P<ipv6>[0-9A-Fa-f:.]{2,45})\]|(?P<name>[\w~-]++(?:\.[\w~-]++)*+)\.?)(?::(?P<port>[0-9]{0,5}))?"
)
_LONGEST_NAME: Final = 253  # characters, RFC 1035 2.3.4 less its length octets
_HIGHEST_PORT: Final = 65535


def _canonical_host(raw: bytes) -> bytes:
    """The host of a Host field or an authority: lower-case, without port and trailing dot, IPv6 in brackets.

    Raises Refusal `bad_host` where it is empty or malformed, holds user information, or its port is out of
    range.
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
    """An IPv6 literal in its one shortest form (RFC 5952), so that no address has two names."""
    try:
        return b"[%b]" % str(IPv6Address(text.decode("ascii"))).encode("ascii")
    except ValueError:
        raise Refusal("bad_host", "the host is not a valid IPv6 address") from None


# A caller can send any host, so the memory of hosts seen is bounded; a refusal is not kept.
canonical_host: Final[Callable[[bytes], bytes]] = lru_cache(maxsize=4096)(_canonical_host)
