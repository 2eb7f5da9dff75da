"""The settings of routes: what is served at a path, to whom, and by which upstream."""

from dataclasses import field
from typing import Any, Final, Literal

from gateway.settings import grammar
from gateway.settings.declare import UNSET, Unset, section, setting
from gateway.settings.kinds import Choice, Duration, Flag, JsonSchema, Size, Text, Whole
from gateway.settings.kinds_compound import ListOf, Section, SetOf
from gateway.settings.model_service import ROLE, TIB
from gateway.settings.nodes import ListNode, MappingNode
from gateway.settings.places import Position
from gateway.settings.reader import INVALID, Invalid, Reader

NOWHERE: Final = Position("", 1, 1)  # of routes that come from no file

ROLES = SetOf(
    ListOf(ROLE, "a list of at least one role", least=1, right="for example [user]; none: any signed-in user")
)
METHODS = ListOf(
    Text("an HTTP method", check=grammar.method, words="method"),
    "a list of at least one method",
    least=1,
    right="for example [GET, POST]",
)


@section
class RolesSettings:
    """The roles that a route asks for, where a list is not enough. `any` and `all` together must both be met."""

    any: frozenset[str] | None = setting(ROLES.or_null(), "One of these is enough.", default=None)
    all: frozenset[str] | None = setting(ROLES.or_null(), "Every one of these.", default=None)


class RolesKind(Section[RolesSettings]):
    """A list of roles, one of which is enough, or a mapping with `any` or `all`."""

    words = "list of roles, or mapping"

    def __init__(self) -> None:
        super().__init__(RolesSettings, "a list of roles, or {all: [a, b]}")
        self.right = "for example [user]"

    def read_list(self, node: ListNode, path: str, reader: Reader) -> RolesSettings | Invalid:
        roles = ROLES.read_list(node, path, reader)
        return INVALID if roles is INVALID else RolesSettings(any=roles)

    def read_mapping(self, node: MappingNode, path: str, reader: Reader) -> RolesSettings | Invalid:
        found = super().read_mapping(node, path, reader)
        # A half that could not be read must not leave a requirement that asks for less.
        if found is INVALID or {f"{path}.any", f"{path}.all"} & reader.rejected:
            return INVALID
        if found.any is None and found.all is None:
            reader.wrong(node, path, self.unacceptable(), "a mapping with neither any nor all")
            return INVALID
        return found

    def schema(self) -> JsonSchema:
        return {"anyOf": [ROLES.schema(), super().schema()]}


@section
class RateLimitSettings:
    """How many requests of one caller are let through: so many at once, and then as many in each such time."""

    requests: int = setting(Whole(1, 1_000_000_000), "Requests…")
    per: float = setting(Duration(), "…in this time.")
    by: Literal["user", "address"] = setting(
        Choice("user", "address"),
        "Who is counted. `user`: the one who is signed in, and by address whoever is anonymous.",
        default="user",
    )


@section
class CorsSettings:
    """Which pages of other origins may call."""

    origins: tuple[str, ...] = setting(
        ListOf(
            Text("an origin", check=grammar.browser_origin, words="origin"),
            "a list of at least one origin",
            least=1,
            right="for example [https://app.example.com]",
        ),
        "Their origins, such as `https://app.example.com`; `*` is every one, not allowed with credentials.",
    )
    methods: tuple[str, ...] | None = setting(
        METHODS.or_null(),
        "The methods by which they may; null: those of the route.",
        default=None,
    )
    headers: tuple[str, ...] = setting(
        ListOf(Text("a header name", check=grammar.header_name, words="header name"), "a list of header names"),
        "The request headers that pages may send, beside those that they always may, and `Authorization` where the "
        "route looks at it; `*` is every one.",
        default=(),
    )
    credentials: bool = setting(Flag(), "Whether cookies and the like may be sent.", default=False)
    max_age: float = setting(Duration(zero=True), "How long browsers may remember the answer.", default=600.0)


@section
class RouteSettings:
    """What is served at a path, to whom, and by which upstream."""

    position: Position = field(default=NOWHERE, compare=False)
    key: str = field(default="", compare=False)
    path: str = setting(
        Text("a path pattern", check=grammar.pattern, words="path pattern"),
        "The path: `/a/b`, `{name}` for one segment, `/**` at the end for everything below.",
    )
    methods: tuple[str, ...] | None = setting(
        METHODS.or_null(), "The methods; null: all but `TRACE`. `GET` includes `HEAD`.", default=None
    )
    auth: Literal["none", "optional", "required"] = setting(
        Choice("none", "optional", "required"),
        "`required`: only with a good token. `optional`: a good token is passed on as identity, none or a bad "
        "one is anonymous. `none`: no identity is looked up, nothing passed on.",
        default="required",
    )
    roles: RolesSettings | None = setting(
        RolesKind().or_null(),
        "The roles that may pass: `[a, b]` any of them, `{all: [a, b]}` every one; null: any signed-in user.",
        default=None,
    )
    owner: str | None = setting(
        Text("the name of a capture", words="capture").or_null(),
        "A capture of the path: the user whose id stands there passes too; without `roles`, only that user.",
        default=None,
    )
    upstream: str = setting(Text("the name of an upstream", words="upstream"), "The upstream that serves it.")
    name: str | None = setting(
        Text("a name", check=grammar.route_name).or_null(),
        "Its name in logs, metrics and policy tests, unique; null: made from path and methods.",
        default=None,
    )
    host: str | None = setting(
        Text("a host", check=grammar.route_host, words="host").or_null(),
        "Only requests for this host, whatever case and port; null: all hosts that no other route names.",
        default=None,
    )
    strip_prefix: str | None = setting(
        Text("a path prefix", check=grammar.pattern, words="path prefix").or_null(),
        "Segments at the beginning of the path that are not sent on; not with `rewrite`.",
        default=None,
    )
    rewrite: str | None = setting(
        Text("a path", check=grammar.pattern, words="path").or_null(),
        "The path to send on, for example `/v2/{user_id}/{**}`, where `{**}` is what `/**` matched.",
        default=None,
    )
    websocket: bool = setting(Flag(), "Whether the WebSocket handshake is let through.", default=False)
    max_body: int | None = setting(
        Size(1, TIB, zero=True).or_null(),
        "The largest request body; null: as `server.max_body`.",
        default=None,
    )
    response_timeout: float | Unset | None = setting(
        Duration().or_null(),
        "Replaces that of the upstream; null: no limit. Not written: as the upstream's.",
        default=UNSET,
    )
    rate_limit: RateLimitSettings | None = setting(
        Section(RateLimitSettings).or_null(), "How many requests are let through; null: all.", default=None
    )
    forward_credentials: bool | Unset = setting(
        Flag(),
        "Whether the caller's `Authorization` goes on to the upstream. Not written: on routes with `auth: none` only.",
        default=UNSET,
    )
    encoded_slash: Literal["reject", "keep"] = setting(
        Choice("reject", "keep"),
        "`keep`: `%2F` inside of a segment stays data of that segment, for an upstream that splits a path before it "
        "decodes it.",
        default="reject",
    )
    shadow: bool = setting(
        Flag(),
        "What it would decide is logged and counted, but requests are decided as if it were not there.",
        default=False,
    )
    cors: CorsSettings | None = setting(
        Section(CorsSettings).or_null(), "Which pages of other origins may call; null: none.", default=None
    )


class RouteKind(Section[RouteSettings]):
    """A route, which knows its place."""

    def __init__(self) -> None:
        super().__init__(RouteSettings, "a route")
        self.right = "for example {path: /public/**, auth: none, upstream: web}"

    def extras(self, node: MappingNode, path: str, reader: Reader) -> dict[str, Any]:
        return {"key": path, "position": Position(reader.file, node.line, node.column)}
