"""Navigations: requests with which a browser opens a page, as opposed to scripts, images, frames and programs.

Only a navigation can be redirected to a sign-in page. A script that received such a page with 200 would take it for
data.
"""

from collections.abc import Sequence
from typing import Final
from urllib.parse import quote

from gateway.wire.fields import RequestFields

_FETCH_METADATA: Final = frozenset((b"sec-fetch-site", b"sec-fetch-mode", b"sec-fetch-dest", b"sec-fetch-user"))
_LONGEST_ACCEPT: Final = 2048  # In bytes. Browsers send less than 200.
_NOT_FROM_LINKS: Final = frozenset((b"x-requested-with", b"upgrade"))


def is_navigation(method: bytes, fields: RequestFields) -> bool:
    """Whether a browser opens a page. WebSocket handshakes and requests with a bearer credential do not count.

    Browsers that send no Fetch Metadata, and plain http hosts, are recognised by `Accept`.
    """
    if method not in (b"GET", b"HEAD") or fields.upgrade is not None or _has_bearer(fields):
        return False
    metadata: dict[bytes, list[bytes]] = {}
    others: dict[bytes, list[bytes]] = {}
    for name, value in fields.kept:
        name = name.lower()
        into = metadata if name in _FETCH_METADATA else others
        into.setdefault(name, []).append(value.strip(b" \t"))
    if metadata:
        return metadata.get(b"sec-fetch-mode") == [b"navigate"] and metadata.get(b"sec-fetch-dest") == [b"document"]
    return _NOT_FROM_LINKS.isdisjoint(others) and prefers_html(b",".join(others.get(b"accept", ())))


def prefers_html(accept: bytes) -> bool:
    """Whether Accept prefers `text/html` to `application/json` (RFC 9110 12.5.1). A tie prefers neither."""
    if len(accept) > _LONGEST_ACCEPT:
        return False
    ranges = [_media_range(part) for part in accept.lower().split(b",") if part.strip(b" \t")]
    return _quality(ranges, b"text", b"html") > _quality(ranges, b"application", b"json")


def _quality(ranges: Sequence[tuple[bytes, float]], kind: bytes, subtype: bytes) -> float:
    """The quality of a media type: that of the most specific range that matches it."""
    for media_range in (kind + b"/" + subtype, kind + b"/*", b"*/*"):
        found = [quality for name, quality in ranges if name == media_range]
        if found:
            return max(found)
    return 0.0


def _media_range(text: bytes) -> tuple[bytes, float]:
    name, *parameters = (part.strip(b" \t") for part in text.split(b";"))
    quality = next((each[2:] for each in parameters if each.startswith(b"q=")), b"1")
    try:
        return name, min(1.0, max(0.0, float(quality))) if len(quality) <= 5 else 0.0
    except ValueError:
        return name, 0.0


def _has_bearer(fields: RequestFields) -> bool:
    return fields.authorizations > 1 or (fields.authorization or b"")[:6].lower() == b"bearer"


def with_return_to(location: str, target: bytes) -> str:
    """A location with the target of the request as its parameter `return_to`."""
    return f"{location}{'&' if '?' in location else '?'}return_to={quote(target, safe='')}"
