"""Classify request header fields: forwarded, dropped, or read by the gateway.

Each spelling of a name is classified once: the table contains names as sent, and only an unknown spelling is folded and
looked up in the rules. Folding ignores case and maps every byte except letters and digits to `-`, because CGI and WSGI
upstreams normalise names in this way: `X-User_Id` and `X!User!Id` reach them as X-User-Id (CVE-2025-64484,
GHSA-f59h-q822-g45g). A name that folds to a special name but differs from it is therefore dropped.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from gateway.wire.cookies import OwnCookies

Field = tuple[bytes, bytes]
Placed = tuple[int, Field]  # A field, and its index in `kept`.

# Clients and upstreams choose field names, so tables of spellings are bounded in count and bytes.
KNOWN_SPELLINGS: Final = 4096
LONGEST_KNOWN_SPELLING: Final = 64  # In bytes. A longer name is classified on each use.
# A connection caches its last head up to this size: 31 KB of short fields are 250 KB of objects.
REMEMBERED_SIZE: Final = 2048  # In bytes.
REMEMBERED_FIELDS: Final = 32
_SPACE: Final = frozenset((b" ", b"\t"))  # RFC 9110 5.5: not part of a value, but llhttp keeps it at the end.
_FOLD: Final = bytes(ord(chr(byte).lower()) if byte < 128 and chr(byte).isalnum() else ord("-") for byte in range(256))


class Action:
    """The treatment of a field.

    Plain integers: the lookup of an Enum member costs as much as parsing a header field.
    """

    KEEP: Final = 0
    DROP: Final = 1
    HOST: Final = 2
    AUTHORIZATION: Final = 3
    CONNECTION: Final = 4
    REQUEST_ID: Final = 5
    FORWARDED_FOR: Final = 6
    FORWARDED_PROTO: Final = 7
    FORWARDED_HOST: Final = 8
    FORWARDING: Final = 9  # Kept from a trusted proxy, dropped from every other peer.
    CONTENT_LENGTH: Final = 10
    TRANSFER_ENCODING: Final = 11
    UPGRADE: Final = 12
    EXPECT: Final = 13
    TE: Final = 14
    FORWARDED_PORT: Final = 15
    FORWARDED_PREFIX: Final = 16
    CONDITIONAL: Final = 17  # Max-Forwards and method overrides: forwarded depending on upstream and method.
    COOKIE: Final = 18  # Where the gateway has cookies of its own, which are read and dropped.


# RFC 9110 7.6.1, and fields added by older proxies and HTTP/2 upgrades. `Trailer` is dropped because request trailers
# are not forwarded.
HOP_BY_HOP: Final = frozenset(
    (
        b"keep-alive",
        b"proxy-connection",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-authentication-info",
        b"http2-settings",
        b"trailer",
    )
)

MAX_FORWARDS: Final = b"max-forwards"
# CGI programs receive `Proxy` as HTTP_PROXY, which HTTP clients use as their proxy (httpoxy, CVE-2016-5385).
NEVER_SENT_ON: Final = HOP_BY_HOP | {b"proxy"}
METHOD_OVERRIDES: Final = frozenset((b"x-http-method-override", b"x-http-method", b"x-method-override"))
_HOST: Final = Action.HOST  # Most requests have these two, so they are checked first.
_AUTHORIZATION: Final = Action.AUTHORIZATION

_SPECIAL: Final[dict[bytes, int]] = {
    **dict.fromkeys(NEVER_SENT_ON, Action.DROP),
    **dict.fromkeys(METHOD_OVERRIDES, Action.CONDITIONAL),
    b"host": Action.HOST,
    b"authorization": Action.AUTHORIZATION,
    b"connection": Action.CONNECTION,
    b"x-request-id": Action.REQUEST_ID,
    b"x-forwarded-for": Action.FORWARDED_FOR,
    b"x-forwarded-proto": Action.FORWARDED_PROTO,
    b"x-forwarded-host": Action.FORWARDED_HOST,
    b"x-forwarded-port": Action.FORWARDED_PORT,
    b"x-forwarded-prefix": Action.FORWARDED_PREFIX,
    b"content-length": Action.CONTENT_LENGTH,
    b"transfer-encoding": Action.TRANSFER_ENCODING,
    b"upgrade": Action.UPGRADE,
    b"expect": Action.EXPECT,
    b"te": Action.TE,
    MAX_FORWARDS: Action.CONDITIONAL,
    # The gateway writes or reads these in a handshake, so other spellings are dropped.
    b"sec-websocket-key": Action.KEEP,
    b"sec-websocket-version": Action.KEEP,
    b"sec-websocket-protocol": Action.KEEP,
    b"sec-websocket-extensions": Action.KEEP,
}
# Every name with a meaning for the gateway, except the configured identity headers.
SPECIAL_NAMES: Final = frozenset(_SPECIAL)
# Fields about the client, and about the request before other proxies changed it.
FORWARDING_NAMES: Final = frozenset(
    (
        b"forwarded",
        b"x-forwarded",
        b"x-real-ip",
        b"x-client-ip",
        b"x-cluster-client-ip",
        b"true-client-ip",
        b"cf-connecting-ip",
        b"fastly-client-ip",
        b"x-rewrite-url",
    )
)
FORWARDING_PREFIXES: Final = (b"x-forwarded-", b"x-original-")


def fold(name: bytes) -> bytes:
    """The name as CGI upstreams compare it: lower case, everything except letters and digits replaced by `-`."""
    return name.translate(_FOLD)


def is_forwarding(name: bytes) -> bool:
    """Whether a field of this name, in any spelling, describes a client behind the peer."""
    folded = fold(name)
    return folded in FORWARDING_NAMES or folded.startswith(FORWARDING_PREFIXES)


class RequestFields:
    """The classified fields of one request head: fields to forward, in order, and values for the gateway.

    `session_cookie` is the value of the session cookie, None if `session_cookies` of this name were sent and that is
    not one. `credentials` are the Authorization fields with their positions in `kept`, for routes that forward them;
    `authorization` is the value of the last one. `forwarding` are fields that a trusted proxy can set, `conditional`
    fields that depend on upstream and method, both with positions. Most requests have few of these, so defaults are
    class attributes.
    """

    host: bytes | None = None
    hosts = 0
    authorization: bytes | None = None
    authorizations = 0
    credentials: Sequence[Placed] = ()
    session_cookie: bytes | None = None
    session_cookies = 0
    connection: bytes | None = None
    request_id: bytes | None = None
    forwarded_for: bytes | None = None
    forwarded_proto: bytes | None = None
    forwarded_host: bytes | None = None
    forwarded_port: bytes | None = None
    forwarded_prefix: bytes | None = None
    forwarding: Sequence[Placed] = ()
    conditional: Sequence[Placed] = ()
    content_length: bytes | None = None
    transfer_encoding: bytes | None = None
    upgrade: bytes | None = None
    expect: bytes | None = None
    te: bytes | None = None
    # Memoised by the gate for repeated header blocks.
    bearer: bytes | None = None
    canonical_host: bytes | None = None
    # Serialized fields to forward, without and with credentials.
    sent: bytes | None = None
    sent_with_credentials: bytes | None = None
    forwarded_lines: bytes | None = None

    def __init__(self) -> None:
        self.kept: list[Field] = []

    def copy(self) -> "RequestFields":
        """Another object with the same values."""
        other = RequestFields()
        for name in REQUEST_VALUES:
            setattr(other, name, getattr(self, name))
        return other


# The attributes of RequestFields.
REQUEST_VALUES: Final = (
    "kept",
    "host",
    "hosts",
    "authorization",
    "authorizations",
    "session_cookie",
    "session_cookies",
    "credentials",
    "connection",
    "request_id",
    "forwarded_for",
    "forwarded_proto",
    "forwarded_host",
    "forwarded_port",
    "forwarded_prefix",
    "forwarding",
    "conditional",
    "content_length",
    "transfer_encoding",
    "upgrade",
    "expect",
    "te",
    "session_cookie",
    "session_cookies",
    "bearer",
    "canonical_host",
    "sent",
    "sent_with_credentials",
    "forwarded_lines",
)


class FieldRules:
    """Classifies request fields. `own_names` are the names that only the gateway sets (identity headers), `cookies`
    its own cookies, None without sessions."""

    def __init__(self, own_names: Iterable[str] = (), cookies: OwnCookies | None = None) -> None:
        own = {fold(name.encode("ascii")): Action.DROP for name in own_names}
        self._special = {**_SPECIAL, **own}
        self._cookies = cookies
        if cookies is not None:
            self._special[b"cookie"] = Action.COOKIE
        self._spellings: dict[bytes, int] = {}

    def action(self, name: bytes) -> int:
        """The treatment of a field with this spelling."""
        known = self._spellings.get(name)
        if known is not None:
            return known
        decided = self._decide(name)
        if len(name) <= LONGEST_KNOWN_SPELLING:
            if len(self._spellings) >= KNOWN_SPELLINGS:
                self._spellings.clear()
            self._spellings[name] = decided
        return decided

    def _decide(self, name: bytes) -> int:
        folded = fold(name)
        special = self._special.get(folded)
        if special is None:
            if not is_forwarding(name):
                return Action.KEEP
            special = Action.FORWARDING
        return special if folded == name.lower() else Action.DROP

    def sort(self, fields: Sequence[Field]) -> RequestFields:
        """Classify all fields in one pass, in order. Strips trailing white space of values."""
        sorted_ = RequestFields()
        kept = sorted_.kept
        spellings = self._spellings
        lists: dict[str, list[bytes]] = {}
        for field in fields:
            action = spellings.get(field[0])
            if action is None:
                action = self.action(field[0])
            if action == 0:
                kept.append(field if field[1][-1:] not in _SPACE else (field[0], field[1].rstrip(b" \t")))
            elif action != 1:
                _read_special(sorted_, action, field, lists, self._cookies)
        for name, values in lists.items():
            setattr(sorted_, name, b", ".join(values))
        return sorted_


def _read_special(
    into: RequestFields, action: int, field: Field, lists: dict[str, list[bytes]], cookies: OwnCookies | None
) -> None:
    """Read a special field. `lists` collects values by attribute: a head can repeat a field thousands of times, so
    earlier lines must not be copied."""
    value = field[1].strip(b" \t")
    if action == _HOST:
        into.host = value
        into.hosts += 1
    elif action == _AUTHORIZATION:
        into.authorization = value
        into.credentials = _with(into.credentials, (len(into.kept), field))
        into.authorizations += 1
    elif action in _SET_APART:
        name = _SET_APART[action]
        setattr(into, name, _with(getattr(into, name), (len(into.kept), field)))
    elif action == Action.REQUEST_ID:
        # Two different ids are ambiguous, so both are ignored and a new id is generated.
        into.request_id = value if into.request_id is None else b""
    elif action == Action.COOKIE and cookies is not None:
        _read_cookies(into, (field[0], value), cookies)
    else:
        lists.setdefault(_ATTRIBUTE[action], []).append(value)


def _read_cookies(into: RequestFields, field: Field, cookies: OwnCookies) -> None:
    """Keep a Cookie field without own cookies; an empty field goes. Of several session cookies none counts: each
    program could choose another one."""
    others, values = cookies.split(field[1])
    if others:
        into.kept.append((field[0], others))
    if values:
        into.session_cookies += len(values)
        into.session_cookie = values[0] if into.session_cookies == 1 else None


def _with(placed: Sequence[Placed], field: Placed) -> list[Placed]:
    """The list with one more field. The first field creates it."""
    if not isinstance(placed, list):
        return [field]
    placed.append(field)
    return placed


_SET_APART: Final[dict[int, str]] = {
    Action.FORWARDING: "forwarding",
    Action.CONDITIONAL: "conditional",
}
_ATTRIBUTE: Final[dict[int, str]] = {
    Action.CONNECTION: "connection",
    Action.FORWARDED_FOR: "forwarded_for",
    Action.FORWARDED_PROTO: "forwarded_proto",
    Action.FORWARDED_HOST: "forwarded_host",
    Action.FORWARDED_PORT: "forwarded_port",
    Action.FORWARDED_PREFIX: "forwarded_prefix",
    Action.CONTENT_LENGTH: "content_length",
    Action.TRANSFER_ENCODING: "transfer_encoding",
    Action.UPGRADE: "upgrade",
    Action.EXPECT: "expect",
    Action.TE: "te",
}


def list_members(value: bytes) -> tuple[bytes, ...]:
    """The members of a comma-separated list field, in lower case (RFC 9110 5.6.1: empty members do not count)."""
    return tuple(member for part in value.split(b",") if (member := part.strip(b" \t").lower()))
