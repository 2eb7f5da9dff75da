"""What a route is: a place, who may come there, and where it leads."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from gateway.policy.cors import Cors
from gateway.policy.methods import TRACE, USUAL_METHODS
from gateway.policy.patterns import Pattern
from gateway.policy.rewriting import Rewrite
from gateway.settings.model import UNSET, RouteSettings
from gateway.settings.places import Position

Authentication = Literal["none", "optional", "required"]


@dataclass(frozen=True, slots=True)
class Requirement:
    """What is asked of a principal beyond being one.

    One of the roles `any`, every role of `all` (None: not asked), or to be the user whose id stands in
    the capture `owner`. Without roles, an owner is the only one who passes.
    """

    any: frozenset[str] | None = None
    all: frozenset[str] | None = None
    owner: str | None = None

    @property
    def names_roles(self) -> bool:
        """Whether roles are asked for."""
        return self.any is not None or self.all is not None


NOTHING_MORE = Requirement()


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Route:
    """One rule, ready to be matched and decided. Equal only to itself.

    `methods` is None for all but TRACE and holds HEAD wherever it holds GET. `upstream` is None for the gateway's own
    endpoints, whose name is `endpoint`; one that is not served is only reserved. `refusal` is the code with which such
    an endpoint refuses every caller, `condition` says in words which further check it makes itself. `captures` says in
    which segment of a path, counted from 1, each capture stands. `is_plain`: nothing is left to do once a request is
    admitted, neither to count it nor to add something to its answer. `passes_credentials`: the caller's Authorization
    goes on. The defaults are strict.
    """

    name: str
    shape: Pattern
    methods: frozenset[bytes] | None
    host: bytes | None = None
    authentication: Authentication = "required"
    requirement: Requirement = NOTHING_MORE
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
    cors: Cors | None = None
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
        """The path pattern in its canonical spelling."""
        return self.shape.text

    def serves(self, method: bytes) -> bool:
        """Whether a method is one of the route's. TRACE must be listed, but for an endpoint of the gateway: its answer
        does not show the request."""
        if self.methods is not None:
            return method in self.methods
        return method != TRACE or self.upstream is None

    def shares_method(self, other: "Route") -> bool:
        """Whether some method is served by both routes."""
        if self.methods is None:
            return other.methods is None or any(map(self.serves, other.methods))
        return any(map(other.serves, self.methods))


def allowed_methods(route: Route) -> Iterable[bytes]:
    """The methods of a route for an Allow field."""
    return USUAL_METHODS if route.methods is None else route.methods


def with_head(methods: frozenset[bytes]) -> frozenset[bytes]:
    """The methods that a list of methods serves: who serves GET serves HEAD (RFC 9110 9.3.2)."""
    return methods | {b"HEAD"} if b"GET" in methods else methods
