"""Makes the addresses in the fields of a response public.

An application knows the address under which the gateway reaches it, and the path without the prefix that the route
strips. Clients know neither. Location, Content-Location, Refresh (RFC 9110 10.2.2, 8.7) and the paths of cookies (RFC
6265 5.2.4) are translated, where they name the target:

    Location: http://10.0.0.1:8000/items/    ──▶    Location: https://shop.example.com/orders/items/
    Location: /items/                        ──▶    Location: /orders/items/
    Set-Cookie: a=1; Path=/                  ──▶    Set-Cookie: a=1; Path=/orders

An application that reads X-Forwarded-Prefix writes the prefix itself, so a path that begins with it stays. A redirect
to a page of the gateway (`/account/sign-out`) stays too, like the same link in a page of the application.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Final

from gateway.gate.admission import RequestHead
from gateway.proxy.forward import ForwardPlan, UpstreamRequest, first_member, stated_prefix
from gateway.proxy.interfaces import Field
from gateway.proxy.response_head import ResponseHead
from gateway.proxy.target import Target
from gateway.samples import Sample
from gateway.wire.credential_fields import OwnCookies, without_clearing_cookies

_ABSOLUTE: Final = re.compile(
    rb"(?:(?P<scheme>https?):)?//(?P<authority>[^/?#\\]*)(?P<path>.*)", re.IGNORECASE | re.DOTALL
)
_REFRESH: Final = re.compile(rb"(\s*[0-9.]*\s*[;,]\s*(?:url\s*=\s*)?)(?P<quote>['\"]?)(?P<url>.*)", re.I | re.DOTALL)
_COOKIE_PATH: Final = re.compile(rb"(;\s*path\s*=\s*)([^;]*)", re.IGNORECASE)
# RFC 6265bis 4.1.3.2: browsers refuse such a cookie with a path other than `/`.
_HOST_PREFIX: Final = b"__host-"
# A trusted proxy states the host without a check of its grammar.
_AUTHORITY: Final = re.compile(rb"[0-9A-Za-z._~-]++(?::[0-9]*)?|\[[0-9A-Fa-f:.]++\](?::[0-9]*)?")
_PORTS: Final = {b"http": b":80", b"https": b":443"}


def passed_on(
    head: ResponseHead, date: bytes, request: UpstreamRequest, target: Target
) -> tuple[Sequence[Field], bytes | None]:
    """Return the fields of a head for the client, and their serialized form if they are forwarded unchanged."""
    fields, serialized = head.dated(date)
    if head.shape.has_addresses or (
        head.shape.has_cookies and request.plan is not None and request.plan.changes_cookies
    ):
        return public_fields(fields, request, target), None
    return fields, serialized


def public_fields(fields: Sequence[Field], request: UpstreamRequest, target: Target) -> Sequence[Field]:
    """Return the fields of the response to a request that `target` has answered, with public addresses and without own
    cookies."""
    fields = without_own_cookies(fields, request)
    if request.plan is None or request.head is None or not request.plan.rewrites_responses:
        return fields
    translation = _Translation(request.head, request.plan, target, request.preserved_host)
    return [(name, translation.field(name.lower(), value)) for name, value in fields]


def without_own_cookies(fields: Sequence[Field], request: UpstreamRequest) -> Sequence[Field]:
    """Return the fields without the cookies that only the gateway sets."""
    plan = request.plan
    return fields if plan is None or plan.own_cookies is None else plan.own_cookies.removed_from(fields)


class _Translation:
    """The translation of the addresses in one response.

    `base` precedes the paths of the target, `prefix` those of the client. `origins` are the authorities by which the
    target knows itself.
    """

    def __init__(self, head: RequestHead, plan: ForwardPlan, target: Target, preserved_host: bytes | None) -> None:
        fields, peer = head.fields, head.peer
        self._base, self._own_prefix, self._own_paths = plan.base, plan.prefix, plan.own_paths
        self._prefix, self._stated_prefix = plan.prefix, b""
        self._scheme, self._host = peer.scheme.encode("ascii", "replace"), fields.host
        if peer.trusted:
            self._stated_prefix = stated_prefix(fields)
            self._prefix = self._stated_prefix + plan.prefix
            scheme = first_member(fields.forwarded_proto or b"").lower()
            self._scheme = scheme if scheme in _PORTS else self._scheme
            self._host = first_member(fields.forwarded_host or fields.host or b"")
        if self._host is not None and not _AUTHORITY.fullmatch(self._host):
            self._host = None
        self._target_scheme = target.scheme
        names = (target.authority.encode("ascii"), preserved_host or b"")
        self._origins = {_without_port(name.lower(), target.scheme) for name in names if name}

    def field(self, name: bytes, value: bytes) -> bytes:
        """The value of a field for the client."""
        if name in (b"location", b"content-location"):
            return self._reference(value)
        if name == b"set-cookie":
            return self._cookie(value)
        return self._refresh(value) if name == b"refresh" else value

    def _reference(self, value: bytes) -> bytes:
        absolute = _ABSOLUTE.fullmatch(value)
        if absolute is None:
            translates = (self._own_prefix or self._base) and value.startswith(b"/")
            return _without_authority(self._page(value)) if translates else value
        scheme = (absolute["scheme"] or self._target_scheme).lower()
        authority = absolute["authority"].lower()
        if _without_port(authority, scheme) not in self._origins:
            return value
        path = self._page(absolute["path"])
        if self._host is None:  # HTTP/1.0 without Host
            return _without_authority(path or b"/")
        if scheme == self._target_scheme:
            scheme, authority = self._scheme, self._host
        elif authority != self._host.lower():
            # The application changes the scheme, for example to https. The port of the client's Host is of the other.
            authority = self._host.rpartition(b":")[0] if _has_port(self._host) else self._host
        return b"%b//%b%b" % (b"%b:" % scheme if absolute["scheme"] else b"", authority, path)

    def _page(self, path: bytes) -> bytes:
        """The path of the client for the path of a redirect, which can be a page of the gateway."""
        is_own = self._own_prefix and not self._base and _without_query(path) in self._own_paths
        return self._stated_prefix + path if is_own else self._path(path)

    def _path(self, path: bytes) -> bytes:
        """The path of the client for a path of the target, with its query and fragment."""
        if self._base:
            if _is_below(path, self._prefix + self._base):  # the application writes the prefix
                path = path[len(self._prefix) :]
            if not _is_below(path, self._base):
                return path
            path = path[len(self._base) :]
        if not self._prefix or _is_below(path, self._prefix) or _is_below(path, self._own_prefix or self._prefix):
            return path if path.startswith(b"/") or not self._base else b"/" + path
        return self._prefix + (path if path.startswith(b"/") else b"/" + path)

    def _cookie(self, value: bytes) -> bytes:
        if not (self._own_prefix or self._base) or value[: len(_HOST_PREFIX)].lower() == _HOST_PREFIX:
            return value
        return _COOKIE_PATH.sub(lambda found: found[1] + self._cookie_path(found[2].rstrip(b" \t")), value)

    def _cookie_path(self, path: bytes) -> bytes:
        if not path.startswith(b"/"):
            return path
        if _is_below(self._base or b"/", path.rstrip(b"/")):  # it covers everything that the gateway forwards
            return self._prefix or b"/"
        return self._path(path)

    def _refresh(self, value: bytes) -> bytes:
        found = _REFRESH.fullmatch(value)
        if found is None:
            return value
        quote = found["quote"]
        url, end, rest = found["url"].partition(quote) if quote else (found["url"], b"", b"")
        return found[1] + quote + self._reference(url) + end + rest


def _without_authority(path: bytes) -> bytes:
    """A reference to this path.

    Browsers read `//host`, `/\\host` and `/<TAB>/host` as the address of another site, and a path can begin so after
    the removal of the base path. WHATWG URL 4.5 writes such a path behind `/.`.
    """
    return b"/." + path if path[1:2] in (b"/", b"\\", b"\t") else path


def _without_query(path: bytes) -> bytes:
    return path.partition(b"#")[0].partition(b"?")[0]


def _is_below(path: bytes, prefix: bytes) -> bool:
    """Whether a path, with its query and fragment, is a prefix or begins with it, segment by segment."""
    return path.startswith(prefix) and path[len(prefix) : len(prefix) + 1] in (b"", b"/", b"?", b"#")


def _without_port(authority: bytes, scheme: bytes) -> bytes:
    """The authority without the default port of the scheme. An authority with two ports names no target."""
    host = authority.removesuffix(_PORTS[scheme]).removesuffix(b":")
    return authority if host != authority and _has_port(host) else host


def _has_port(host: bytes) -> bool:
    return host.rpartition(b":")[2].isdigit()


# Takes the gateway's own cookies out of responses, so that no upstream plants or ends a session.
class UpstreamCookies:
    """The own cookies that one upstream tries to set or to clear. They are dropped and counted."""

    def __init__(self, upstream: str, own: OwnCookies) -> None:
        self._upstream = upstream
        self._own = own
        self._dropped = 0

    def removed_from(self, fields: Sequence[Field]) -> Sequence[Field]:
        """The fields without own cookies."""
        kept: list[Field] = []
        for field in fields:
            allowed = self._allowed(field)
            if allowed is not field:
                self._dropped += 1
            if allowed is not None:
                kept.append(allowed)
        return kept

    def samples(self) -> Iterator[Sample]:
        yield Sample("gateway_upstream_cookies_dropped_total", (self._upstream,), self._dropped)

    def _allowed(self, field: Field) -> Field | None:
        """The field itself, a copy that clears no cookies, or None."""
        name, value = field
        if len(name) == 10 and name.lower() == b"set-cookie":
            return None if self._own.is_set_by(value) else field
        if len(name) == 15 and name.lower() == b"clear-site-data":
            others = without_clearing_cookies(value)
            if others != value:
                return (name, others) if others else None
        return field
