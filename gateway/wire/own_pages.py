"""Requests from own pages: the proof against forged requests (RFC 10017 6.1.3.3), and safe addresses for redirects.

Browsers add the session cookie to every request to its host, whichever page causes the request. Two fields that pages
cannot set identify the page:

    1. `Sec-Fetch-Site: same-origin` covers the whole chain of redirects. It counts with an `Origin` that is absent,
       `null` or listed: a page with `Referrer-Policy: no-referrer` sends its own forms with `Origin: null` (Fetch,
       "serializing a request origin").
    2. Otherwise, a listed `Origin`.

`same-site` is no proof: a sibling subdomain is same-site, and can belong to another party.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Final
from urllib.parse import urlsplit

from gateway.errors import Refusal
from gateway.wire.fields import Field
from gateway.wire.hosts import canonical_host
from gateway.wire.paths import canonical_target

_ABSOLUTE: Final = re.compile(r"(https?://[^/?#\\@]+)(?:[/?].*)?", re.IGNORECASE | re.DOTALL)
_SAME_ORIGIN: Final = b"same-origin"
_LONGEST_RETURN: Final = 4096  # In characters. Browsers and proxies bound the length of Location.


class OwnOrigins:
    """The origins whose pages can use sessions, as browsers write them (`https://app.example.com`).

    `main` is the first. `hosts` are their canonical hosts: on other hosts a cookie is no credential.
    """

    def __init__(self, origins: Iterable[str]) -> None:
        self._origins = tuple(dict.fromkeys(origins))
        self._listed = frozenset(origin.encode("ascii") for origin in self._origins)
        places = {canonical_host(urlsplit(origin).netloc.encode("ascii")): origin for origin in reversed(self._origins)}
        self._by_host: Final = places
        self.hosts: Final = frozenset(places)
        self.main: Final = self._origins[0]

    def at(self, host: bytes | None) -> str:
        """The origin at a host; the main one for other hosts."""
        return self._by_host.get(host, self.main) if host is not None else self.main

    def lists(self, origin: bytes) -> bool:
        """Whether the value of an Origin field is listed. Scheme and host are compared without case."""
        return origin.lower() in self._listed

    def missing_proof(self, fields: Sequence[Field]) -> str:
        """ "" if the fields prove that the request comes from an own page; otherwise the failing field, for the log.

        Repeated fields prove nothing: readers could choose different ones.
        """
        origins, sites = _values(fields, b"origin"), _values(fields, b"sec-fetch-site")
        if len(origins) > 1 or len(sites) > 1:
            return "several Origin fields" if len(origins) > 1 else "several Sec-Fetch-Site fields"
        origin = origins[0] if origins else None
        if origin is not None and self.lists(origin):
            return ""
        if sites == [_SAME_ORIGIN] and origin in (None, b"null"):
            return ""
        if origin is not None and origin != b"null":
            return "Origin is not listed"
        return "Sec-Fetch-Site is not same-origin" if sites else "neither Origin nor Sec-Fetch-Site"

    def is_safe_return(self, address: str, *, relaxed: bool) -> bool:
        """Whether a redirect can lead to an address: a path that the gateway accepts, or an own absolute address.

        `address` is decoded once, as a query parameter. Browsers read `//host` and `/\\host` as other sites.
        """
        if len(address) > _LONGEST_RETURN or not address.isascii() or "\\" in address:
            return False
        path = address
        if not address.startswith("/"):
            absolute = _ABSOLUTE.fullmatch(address)
            if absolute is None or not self.lists(absolute[1].encode("ascii")):
                return False
            path = address[len(absolute[1]) :] or "/"
            path = path if path.startswith("/") else f"/{path}"
        if path.startswith("//"):
            return False
        try:
            canonical_target(path.encode("ascii"), relaxed=relaxed)
        except Refusal:
            return False
        return True


def _values(fields: Sequence[Field], name: bytes) -> list[bytes]:
    return [value.strip(b" \t") for each, value in fields if len(each) == len(name) and each.lower() == name]
