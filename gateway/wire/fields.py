"""Classify request header fields: forwarded, dropped, or read by the gateway.

Each spelling of a name is classified once: the table contains names as sent, and only an unknown spelling is folded and
looked up in the rules. Folding ignores case and maps every byte except letters and digits to `-`, because CGI and WSGI
upstreams normalise names in this way: `X-User_Id` and `X!User!Id` reach them as X-User-Id (CVE-2025-64484,
GHSA-f59h-q822-g45g). A name that folds to a special name but differs from it is therefore dropped.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Final

from gateway.wire.credential_fields import OwnCookies
from gateway.wire.head_template import KNOWN_HEADS, HeadTemplate, Names, Picker, Values, is_memorable, picker

Field = tuple[bytes, bytes]
Placed = tuple[int, Field]  # A field, and its index in `kept`.

# Clients and upstreams choose field names, so tables of spellings are bounded in count and bytes.
KNOWN_SPELLINGS: Final = 4096
LONGEST_KNOWN_SPELLING: Final = 64  # In bytes. A longer name is classified on each use.
# A connection caches its last head up to this size: 31 KB of short fields are 250 KB of objects.
REMEMBERED_SIZE: Final = 2048  # In bytes.
REMEMBERED_FIELDS: Final = 32
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
# Servers remove the path in such a field from the path of the request: gunicorn reads SCRIPT_NAME, daphne reads
# Daphne-Root-Path. The application would serve another path than the one that the policy has allowed.
BASE_PATHS: Final = frozenset((b"script-name", b"path-info", b"x-script-name", b"daphne-root-path"))
# CGI programs receive `Proxy` as HTTP_PROXY, which HTTP clients use as their proxy (httpoxy, CVE-2016-5385).
NEVER_SENT_ON: Final = HOP_BY_HOP | BASE_PATHS | {b"proxy"}
METHOD_OVERRIDES: Final = frozenset((b"x-http-method-override", b"x-http-method", b"x-method-override"))

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


_APART: Final = frozenset((Action.AUTHORIZATION, Action.FORWARDING, Action.CONDITIONAL))
_ATTRIBUTE: Final[dict[int, str]] = {
    Action.HOST: "host",
    Action.AUTHORIZATION: "authorization",
    Action.REQUEST_ID: "request_id",
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
# Clients choose the shapes of heads, and an expression takes a millisecond and 8 KiB.
_COMMON: Final = 64  # Heads after which a shape is common.
_MOST_EXPRESSIONS: Final = 64
_LAST_COUNTS: Final = ("host", "authorization")  # Requests with several of these are refused.


def fold(name: bytes) -> bytes:
    """The name as CGI upstreams compare it: lower case, everything except letters and digits replaced by `-`."""
    return name.translate(_FOLD)


def is_forwarding(name: bytes) -> bool:
    """Whether a field of this name, in any spelling, describes a client behind the peer."""
    folded = fold(name)
    return folded in FORWARDING_NAMES or folded.startswith(FORWARDING_PREFIXES)


class HeadShape:
    """The treatment of all heads with these field names in this order.

    Clients send the same names again and again, with other values. A name is therefore classified when its head has a
    new shape, and the cost of all further heads does not depend on the number of their fields.

    `single` are the attributes of RequestFields that have the value of one field, `lists` those that join several.
    `apart` are the fields of a kind that is forwarded depending on route, peer or method. `cookies` are the indexes of
    fields that can contain own cookies. `is_unframed` is false for fields that announce a body or another protocol.
    `is_remembered`: the rules keep the shape for further heads. `needs_no_parser`: the shape is common, and of the
    fields that a parser reads it has at most one Connection, with the index `connection`.
    """

    __slots__ = (
        "_expression",
        "_heads",
        "apart",
        "authorizations",
        "connection",
        "cookies",
        "has_conditional",
        "hosts",
        "is_remembered",
        "is_unframed",
        "kept",
        "lists",
        "names",
        "needs_no_parser",
        "single",
        "without_cookie",
    )

    def __init__(self, names: Names, actions: Sequence[int]) -> None:
        self.names = names
        kept: list[int] = []
        read: dict[str, list[int]] = {}
        apart: dict[int, list[tuple[int, int]]] = {}
        for index, action in enumerate(actions):
            if action in (Action.KEEP, Action.COOKIE):
                kept.append(index)
            if action in _ATTRIBUTE:
                read.setdefault(_ATTRIBUTE[action], []).append(index)
            if action in _APART:
                apart.setdefault(action, []).append((len(kept), index))
        self.cookies = tuple(index for index, action in enumerate(actions) if action == Action.COOKIE)
        self.hosts, self.authorizations = len(read.get("host", ())), len(read.get("authorization", ()))
        if len(read.get("request_id", ())) > 1:  # Two ids are ambiguous: neither counts, and a new one is generated.
            read["request_id"] = []
        self.single = tuple((name, at[-1]) for name, at in read.items() if len(at) == 1 or name in _LAST_COUNTS)
        self.lists = tuple((name, at) for name, at in read.items() if len(at) != 1 and name not in _LAST_COUNTS)
        self.apart = apart
        self.has_conditional = Action.CONDITIONAL in apart
        self.is_unframed = read.keys().isdisjoint(("content_length", "transfer_encoding", "upgrade"))
        self.kept = HeadTemplate(names, kept)
        self.is_remembered = is_memorable(names)
        self._heads = 0  # Heads whose names were read one by one.
        self._expression: re.Pattern[bytes] | None = None
        self.needs_no_parser = False
        self.connection: int | None = None
        self.without_cookie: tuple[HeadShape, Picker] | None = None  # the shape of the other fields, and their values

    def values(self, head: bytes, start: int) -> Values | None:
        """The values of a head whose request line ends at `start`; None if it has other names, an empty value or more
        white space than one space before each value, or if this shape is rare."""
        if self._expression is None:
            return None
        found = self._expression.fullmatch(head, start)
        return None if found is None else found.groups()

    def becomes_common(self) -> bool:
        """Count a head that had to be split into names and values."""
        self._heads += 1
        return self._heads == _COMMON and self.is_remembered

    def compile(self) -> None:
        """Read further heads with one expression, which takes half as long as the split."""
        lines = b"".join([rb"\r\n%b: ([^\r \t][^\r]*+(?<![ \t]))" % re.escape(name) for name in self.names])
        self._expression = re.compile(lines + rb"\r\n\r\n")
        names = [name.lower() for name in self.names]
        self.connection = names.index(b"connection") if b"connection" in names else None
        is_ambiguous = names.count(b"connection") > 1 or b"proxy-connection" in names
        self.needs_no_parser = self.is_unframed and not is_ambiguous

    def forget_expression(self) -> None:
        """Leave further heads to llhttp. The last head of a connection keeps its shape, and an expression takes
        10 KiB."""
        self._expression = None
        self.needs_no_parser = False

    def placed(self, action: int, values: Values) -> list[Placed]:
        """The fields of a kind that is kept apart."""
        return [(position, (self.names[index], values[index])) for position, index in self.apart.get(action, ())]


class RequestFields:
    """The classified fields of one request head: fields to forward, in order, and values for the gateway.

    `session_cookie` is the value of the session cookie, None if `session_cookies` of this name were sent and that is
    not one. `hosts` and `authorizations` count the fields of these names; `host` and `authorization` are the values of
    the last ones. A value that several fields state is joined to a list. Most requests have few of these, so defaults
    are class attributes.
    """

    host: bytes | None = None
    authorization: bytes | None = None
    session_cookie: bytes | None = None
    session_cookies = 0
    connection: bytes | None = None
    request_id: bytes | None = None
    forwarded_for: bytes | None = None
    forwarded_proto: bytes | None = None
    forwarded_host: bytes | None = None
    forwarded_port: bytes | None = None
    forwarded_prefix: bytes | None = None
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

    def __init__(self, shape: HeadShape, values: Values) -> None:
        self.shape = shape
        self.values = values
        self.hosts = shape.hosts
        self.authorizations = shape.authorizations

    @property
    def kept(self) -> list[Field]:
        """The fields to forward on every route and for every peer. Each use makes a list, so that an idle connection
        keeps none with its last head."""
        return self.shape.kept.fields(self.values)

    @property
    def credentials(self) -> list[Placed]:
        """The Authorization fields, for routes that forward them."""
        return self.shape.placed(Action.AUTHORIZATION, self.values)

    @property
    def forwarding(self) -> list[Placed]:
        """The fields that a trusted proxy can set."""
        return self.shape.placed(Action.FORWARDING, self.values)

    @property
    def conditional(self) -> list[Placed]:
        """The fields that are forwarded depending on upstream and method."""
        return self.shape.placed(Action.CONDITIONAL, self.values)

    def copy(self) -> "RequestFields":
        """Another object with the same values."""
        other = RequestFields(self.shape, self.values)
        for name in REQUEST_VALUES:
            setattr(other, name, getattr(self, name))
        return other


# The attributes of RequestFields.
REQUEST_VALUES: Final = (
    "shape",
    "values",
    "host",
    "hosts",
    "authorization",
    "authorizations",
    "session_cookie",
    "session_cookies",
    "connection",
    "request_id",
    "forwarded_for",
    "forwarded_proto",
    "forwarded_host",
    "forwarded_port",
    "forwarded_prefix",
    "content_length",
    "transfer_encoding",
    "upgrade",
    "expect",
    "te",
    "bearer",
    "canonical_host",
    "sent",
    "sent_with_credentials",
)


NO_SHAPE: Final = HeadShape((), ())
NO_FIELDS: Final = RequestFields(NO_SHAPE, ())


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
        self._shapes: dict[Names, HeadShape] = {}
        self._expressions = 0  # of these shapes

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

    def sort(self, fields: Sequence[Sequence[bytes]]) -> RequestFields:
        """Classify fields in their order. ASGI allows any iterable of two items for a field."""
        if not fields:
            return self.classify(NO_SHAPE, ())
        names, values = zip(*fields, strict=True)
        return self.classify(self.shape(names), stripped(values))

    def shape(self, names: Names) -> HeadShape:
        """The shape of a head with these names."""
        return self._shapes.get(names) or self._new_shape(names)

    def count_head(self, shape: HeadShape) -> None:
        """Count a head that had to be split into names and values, so that common ones are not split."""
        if shape.becomes_common() and self._expressions < _MOST_EXPRESSIONS:
            self._expressions += 1
            shape.compile()

    def classify(self, shape: HeadShape, values: Values) -> RequestFields:
        """Classify the fields of a head."""
        if shape.cookies and self._cookies is not None:
            return self._without_own_cookies(shape, values, self._cookies)
        return _classified(shape, values)

    def _new_shape(self, names: Names) -> HeadShape:
        shape = HeadShape(names, [self.action(name) for name in names])
        if shape.is_remembered:
            if len(self._shapes) >= KNOWN_HEADS:
                self._forget_shapes()
            self._shapes[names] = shape
        return shape

    def _forget_shapes(self) -> None:
        for shape in self._shapes.values():
            shape.forget_expression()
        re.purge()  # The module keeps the last 512 expressions itself.
        self._shapes.clear()
        self._expressions = 0

    def _without_own_cookies(self, shape: HeadShape, values: Values, cookies: OwnCookies) -> RequestFields:
        """Take own cookies out of the Cookie fields. A field without other cookies goes. Of several session cookies
        none counts: each program could choose another one."""
        found: list[bytes] = []
        others = list(values)
        for index in shape.cookies:
            others[index], own = cookies.split(values[index])
            found += own
        emptied = [index for index in shape.cookies if not others[index]]
        values = tuple(others)
        if emptied:
            shape, pick = self._rest_of(shape, emptied)
            values = pick(values)
        fields = _classified(shape, values)
        if found:
            fields.session_cookies = len(found)
            fields.session_cookie = found[0] if len(found) == 1 else None
        return fields

    def _rest_of(self, shape: HeadShape, emptied: Sequence[int]) -> tuple[HeadShape, Picker]:
        """The shape without some Cookie fields. It is remembered for the common case of one Cookie field."""
        rest = shape.without_cookie
        if rest is None:
            gone = set(emptied)
            left = [index for index in range(len(shape.names)) if index not in gone]
            rest = self.shape(tuple([shape.names[index] for index in left])), picker(left)
            if len(shape.cookies) == 1:
                shape.without_cookie = rest
        return rest


def stripped(values: Iterable[bytes]) -> Values:
    """RFC 9110 5.5: white space around a value is not part of it."""
    return tuple(map(bytes.strip, values))


def _classified(shape: HeadShape, values: Values) -> RequestFields:
    fields = RequestFields(shape, values)
    for name, index in shape.single:
        setattr(fields, name, values[index])
    for name, indexes in shape.lists:
        setattr(fields, name, b", ".join([values[index] for index in indexes]))
    return fields


def list_members(value: bytes) -> tuple[bytes, ...]:
    """The members of a comma-separated list field, in lower case (RFC 9110 5.6.1: empty members do not count)."""
    return tuple(member for part in value.split(b",") if (member := part.strip(b" \t").lower()))
