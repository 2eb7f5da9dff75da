"""The route: path pattern, access rule and destination."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from gateway.policy.cors import Cors
from gateway.policy.patterns import TRACE, USUAL_METHODS, Pattern
from gateway.policy.rewrite import Rewrite
from gateway.settings.model import UNSET, RouteSettings
from gateway.settings.positions import Position

Authentication = Literal["none", "optional", "required"]


@dataclass(frozen=True, slots=True)
class Requirement:
    """The conditions on a principal, beyond authentication.

    One of the roles in `any`, every role in `all` (None: not required), or an id equal to the capture `owner`. Without
    roles only the owner passes.
    """

    any: frozenset[str] | None = None
    all: frozenset[str] | None = None
    owner: str | None = None

    @property
    def names_roles(self) -> bool:
        """Whether roles are required."""
        return self.any is not None or self.all is not None


NOTHING_MORE = Requirement()


@dataclass(frozen=True, slots=True)
class Conditions:
    """The conditions on the credential, and on the sign-in behind it.

    kinds: the accepted kinds of credentials; None: all.
    fresh: the highest age of the sign-in, in seconds; None: any age.
    verified: the e-mail address of the user must be verified.
    same_origin: with a cookie, requests with safe methods must come from an own page too.
    """

    kinds: frozenset[str] | None = None
    fresh: float | None = None
    verified: bool = False
    same_origin: bool = False

    @property
    def need_user(self) -> bool:
        """Whether an anonymous caller cannot meet the conditions."""
        return self.fresh is not None or self.verified


NO_CONDITIONS = Conditions()


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Route:
    """One compiled rule. Equal only to itself. The defaults are strict.

    methods: None for all methods except TRACE. Contains HEAD if it contains GET.
    conditions: None without any.
    upstream: None for built-in endpoints, whose name is `endpoint`.
    is_served: False for a built-in endpoint whose path is only reserved.
    refusal: the code with which a built-in endpoint refuses every caller.
    condition: a check that a built-in endpoint makes itself, in words.
    at_any_host: a built-in endpoint is served at hosts that `server.hosts` does not list.
    captures: each capture with its path segment, counted from 1.
    own_page: a built-in endpoint requires the proof that the request comes from an own page.
    is_plain: an admitted request needs neither counting nor extra response fields.
    passes_credentials: the upstream receives the client's Authorization.
    """

    name: str
    shape: Pattern
    methods: frozenset[bytes] | None
    host: bytes | None = None
    authentication: Authentication = "required"
    requirement: Requirement = NOTHING_MORE
    conditions: Conditions | None = None
    upstream: str | None = None
    endpoint: str | None = None
    settings: RouteSettings | None = None
    position: Position | None = None
    rewrite: Rewrite | None = None
    keeps_encoded_slash: bool = False
    websocket: bool = False
    shadow: bool = False
    is_served: bool = True
    refusal: str | None = None
    condition: str = ""
    at_any_host: bool = False
    cors: Cors | None = None
    own_page: bool = False
    is_plain: bool = field(init=False)
    passes_credentials: bool = field(init=False)
    captures: tuple[tuple[str, int], ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "captures", self.shape.captures)
        is_limited = self.settings is not None and self.settings.rate_limit is not None
        object.__setattr__(self, "is_plain", self.cors is None and not is_limited)
        written = UNSET if self.settings is None else self.settings.forward_credentials
        passes = self.authentication == "none" if written is UNSET else written
        object.__setattr__(self, "passes_credentials", passes)

    @property
    def pattern(self) -> str:
        """The path pattern in canonical spelling."""
        return self.shape.text

    def serves(self, method: bytes) -> bool:
        """Whether the route serves a method. TRACE must be listed, except on a built-in endpoint, whose response does
        not echo the request."""
        if self.methods is not None:
            return method in self.methods
        return method != TRACE or self.upstream is None

    def shares_method(self, other: "Route") -> bool:
        """Whether both routes serve some method."""
        if self.methods is None:
            return other.methods is None or any(map(self.serves, other.methods))
        return any(map(other.serves, self.methods))


def allowed_methods(route: Route) -> Iterable[bytes]:
    """The methods of a route for the Allow field."""
    return USUAL_METHODS if route.methods is None else route.methods


def with_head(methods: frozenset[bytes]) -> frozenset[bytes]:
    """The methods served by a list of methods: GET includes HEAD (RFC 9110 9.3.2)."""
    return methods | {b"HEAD"} if b"GET" in methods else methods
