"""Settings of routes: paths, access rules, and upstreams."""

from dataclasses import field
from typing import Any, Final, Literal

from gateway.settings import syntax
from gateway.settings.declare import UNSET, Unset, section, setting
from gateway.settings.model_browsers import SIGN_IN
from gateway.settings.model_server import ROLE, TIB, RateKind
from gateway.settings.positions import Position
from gateway.settings.reader import INVALID, Invalid, Reader
from gateway.settings.types import Boolean, Duration, Enum, Integer, JsonSchema, Size, Text
from gateway.settings.types_compound import ListOf, Section, SetOf
from gateway.settings.yaml import ListNode, MappingNode

NOWHERE: Final = Position("", 1, 1)  # the position of routes without a file

ROLES = SetOf(
    ListOf(ROLE, "a list of at least one role", least=1, right="for example [user]; none: any signed-in user")
)
METHODS = ListOf(
    Text("an HTTP method", check=syntax.method, words="method"),
    "a list of at least one method",
    least=1,
    right="for example [GET, POST]",
)


@section
class RolesSettings:
    """The roles that a route requires, if a list is not enough. If both `any` and `all` are set, both apply."""

    any: frozenset[str] | None = setting(ROLES.or_null(), "One of these roles is enough.", default=None)
    all: frozenset[str] | None = setting(ROLES.or_null(), "The user must have every one of these roles.", default=None)


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
        # An unreadable half must not weaken the requirement.
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
    """A leaking bucket per caller: a burst of `requests`, refilled over each `per`."""

    requests: int = setting(Integer(1, 1_000_000_000), "Requests…")
    per: float = setting(Duration(), "…per this period.")
    by: Literal["user", "address"] = setting(
        Enum("user", "address"),
        "The identity that the limit counts. `user`: the signed-in user, or the address of an anonymous caller.",
        default="user",
    )


@section
class CorsSettings:
    """Cross-origin access for browsers."""

    origins: tuple[str, ...] = setting(
        ListOf(
            Text("an origin", check=syntax.browser_origin, words="origin"),
            "a list of at least one origin",
            least=1,
            right="for example [https://app.example.com]",
        ),
        "The allowed origins, for example `https://app.example.com`; `*` allows every origin, but not with "
        "credentials.",
    )
    methods: tuple[str, ...] | None = setting(
        METHODS.or_null(),
        "The allowed methods; null: those of the route.",
        default=None,
    )
    headers: tuple[str, ...] = setting(
        ListOf(Text("a header name", check=syntax.header_name, words="header name"), "a list of header names"),
        "The allowed request headers, in addition to those that CORS always allows, and to `Authorization` where "
        "the route reads it; `*` allows every header.",
        default=(),
    )
    credentials: bool = setting(Boolean(), "Allow cookies and other credentials.", default=False)
    max_age: float = setting(Duration(zero=True), "How long browsers can cache the preflight response.", default=600.0)


@section
class RouteSettings:
    """A path, its access rules, and its upstream."""

    position: Position = field(default=NOWHERE, compare=False)
    key: str = field(default="", compare=False)
    path: str = setting(
        Text("a path pattern", check=syntax.pattern, words="path pattern"),
        "The path: `/a/b`, `{name}` for one segment, `/**` at the end for everything below.",
    )
    methods: tuple[str, ...] | None = setting(
        METHODS.or_null(), "The methods; null: all but `TRACE`. `GET` includes `HEAD`.", default=None
    )
    auth: Literal["none", "optional", "required"] = setting(
        Enum("none", "optional", "required"),
        "`required`: a valid credential is necessary. `optional`: the identity of a valid credential is forwarded; "
        "a request without one, or with an invalid one, is anonymous. `none`: the gateway neither reads nor "
        "forwards an identity.",
        default="required",
    )
    roles: RolesSettings | None = setting(
        RolesKind().or_null(),
        "The required roles: `[a, b]` any of them, `{all: [a, b]}` all of them; null: any signed-in user.",
        default=None,
    )
    owner: str | None = setting(
        Text("the name of a capture", words="capture").or_null(),
        "The name of a capture in the path. The user with this id passes too; without `roles`, only that user passes.",
        default=None,
    )
    credentials: tuple[str, ...] | None = setting(
        ListOf(
            Enum("session", "token", "api_key", "external"),
            "a list of at least one kind of credential",
            least=1,
            right="for example [session, token]",
        ).or_null(),
        "The accepted kinds of credentials: `session` (the cookie), `token` (of the gateway itself), `api_key`, "
        "`external` (tokens of `tokens.external`); null: all. A credential of another kind is 403 "
        "`credential_not_allowed`; with `auth: optional`, the request is anonymous.",
        default=None,
    )
    fresh: float | None = setting(
        Duration().or_null(),
        "The user must have signed in, or confirmed the sign-in, at most this long ago; null: no limit. API keys never "
        "meet it.",
        default=None,
    )
    verified: bool = setting(Boolean(), "The user's e-mail address must be verified.", default=False)
    same_origin: bool = setting(
        Boolean(),
        "With a cookie, requests with safe methods must come from an own page too.",
        default=False,
    )
    sign_in: str | None = setting(SIGN_IN.or_null(), "Overrides `sessions.sign_in`; null: it applies.", default=None)
    upstream: str = setting(Text("the name of an upstream", words="upstream"), "The upstream that serves the route.")
    name: str | None = setting(
        Text("a name", check=syntax.route_name).or_null(),
        "A unique name for logs, metrics and policy tests; null: built from path and methods.",
        default=None,
    )
    host: str | None = setting(
        Text("a host", check=syntax.route_host, words="host").or_null(),
        "Restricts the route to this host, in any case and with any port; null: every host that no other route names.",
        default=None,
    )
    strip_prefix: str | None = setting(
        Text("a path prefix", check=syntax.pattern, words="path prefix").or_null(),
        "Leading segments that the gateway removes from the forwarded path; not with `rewrite`.",
        default=None,
    )
    rewrite: str | None = setting(
        Text("a path", check=syntax.pattern, words="path").or_null(),
        "The forwarded path, for example `/v2/{user_id}/{**}`, where `{**}` stands for the match of `/**`.",
        default=None,
    )
    websocket: bool = setting(Boolean(), "Allow WebSocket handshakes.", default=False)
    max_body: int | None = setting(
        Size(1, TIB, zero=True).or_null(),
        "The largest request body; null: `server.max_body` applies.",
        default=None,
    )
    response_timeout: float | Unset | None = setting(
        Duration().or_null(),
        "Overrides the upstream's `response_timeout`; null: no limit. Not written: the upstream's applies.",
        default=UNSET,
    )
    rate_limit: RateLimitSettings | None = setting(
        RateKind(RateLimitSettings).or_null(), "Request limit per caller; null: no limit.", default=None
    )
    forward_credentials: bool | Unset = setting(
        Boolean(),
        "Forward the client's `Authorization` header to the upstream. Not written: only on routes with `auth: none`.",
        default=UNSET,
    )
    encoded_slash: Literal["reject", "keep"] = setting(
        Enum("reject", "keep"),
        "`keep`: an escaped `%2F` remains data within its segment, for upstreams that split the path before they "
        "decode it.",
        default="reject",
    )
    shadow: bool = setting(
        Boolean(),
        "Log and count the decisions of this route without enforcing them.",
        default=False,
    )
    cors: CorsSettings | None = setting(
        Section(CorsSettings).or_null(), "Cross-origin access for browsers; null: none.", default=None
    )


class RouteKind(Section[RouteSettings]):
    """A route with its position in the file."""

    def __init__(self) -> None:
        super().__init__(RouteSettings, "a route")
        self.right = "for example {path: /public/**, auth: none, upstream: web}"

    def extras(self, node: MappingNode, path: str, reader: Reader) -> dict[str, Any]:
        return {"key": path, "position": Position(reader.file, node.line, node.column)}
