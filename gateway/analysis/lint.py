"""Warnings about a policy as a whole: legal, but dangerous or probably unintended.

They need compiled routes, so `gateway check` computes them and a normal start does not. Some walk the trees:
unreachable routes, and unrestricted aliases of restricted paths. `settings.checks` lists their names. A comment beside
the line silences a warning.
"""

import re
from collections.abc import Callable, Iterator
from math import inf
from typing import Final
from urllib.parse import quote

from gateway.analysis.access import CREDENTIAL_KINDS, AccessRules
from gateway.analysis.describe import callers_in_words, conditions_in_words
from gateway.analysis.regions import ends_of, front_of, place_of_path
from gateway.errors import Problem
from gateway.policy.loader import Configuration
from gateway.policy.policy import Policy
from gateway.policy.route import NO_CONDITIONS, NOTHING_MORE, Route
from gateway.policy.trie import RouteGroup
from gateway.settings.checks import implied
from gateway.settings.model import Settings
from gateway.settings.reader import quoted
from gateway.settings.store_files import is_in_memory
from gateway.settings.target_address import TargetAddress
from gateway.settings.types import format_duration
from gateway.wire.addresses import is_loopback, is_loopback_host

# Suffixes that some upstreams ignore: Windows file systems strip both.
_TRAILING: Final = (b".", b" ")
_EVERY_ADDRESS: Final = ("0.0.0.0", "::")  # noqa: S104
# Stands for a capture in the example path of a warning.
_ANY: Final = b"x"


def unreachable(policy: Policy) -> Iterator[Route]:
    """Enforced routes that no path reaches."""
    for host in (None, *sorted(policy.hosts)):
        reached = {id(place) for place in ends_of(front_of(policy, host))}
        for route in policy.routes:
            if route.host == host and not route.shadow:
                place = _own_place(policy, route)
                if place is not None and id(place) not in reached:
                    yield route


def _own_place(policy: Policy, route: Route) -> RouteGroup | None:
    """The place of a route."""
    node = policy.tree(route.host).top
    for segment in route.shape.segments:
        following = node.parameter if segment is None else node.literals.get(segment)
        if following is None:
            return None
        node = following
    return node.rest if route.shape.has_rest else node.place


def open_beside_restricted(configuration: Configuration) -> Iterator[tuple[Route, Route, str]]:
    """Find public routes that reach the upstream of a restricted route by an almost equal path.

    Yields the public route, the restricted route, and a path of the former that differs from one of the latter only in
    letter case, or by a dot or a space at the end of a segment. Reports each upstream once: the remedy is the same for
    all of its routes.
    """
    policy, rules = configuration.policy, AccessRules(configuration.settings.roles)
    named: set[str | None] = set()
    for restricted in policy.routes:
        if rules.of(restricted).is_public or restricted.shadow:
            continue
        for segments in _spellings(restricted):
            for route in _routes_for(policy, restricted, segments):
                same = route.upstream == restricted.upstream and route.upstream not in named
                if same and rules.of(route).is_public:
                    named.add(route.upstream)
                    yield route, restricted, "/" + "/".join(quote(segment) for segment in segments)


def _routes_for(policy: Policy, restricted: Route, segments: list[bytes]) -> Iterator[Route]:
    """The routes that serve a path with a method of `restricted`."""
    place = place_of_path(front_of(policy, restricted.host), segments)
    if place is None or place is _own_place(policy, restricted):
        return
    for route in dict.fromkeys(place.routes):
        if restricted.shares_method(route):
            yield route


def _spellings(route: Route) -> Iterator[list[bytes]]:
    """Paths of a route with one segment spelled differently."""
    segments = [_ANY if segment is None else segment for segment in route.shape.segments]
    literals = [number for number, segment in enumerate(route.shape.segments) if segment is not None]
    for number in literals:
        for other in (segments[number].swapcase(), *(segments[number] + ending for ending in _TRAILING)):
            if other != segments[number]:
                yield [*segments[:number], other, *segments[number + 1 :]]


Finding = tuple[str, str, str]  # key, name of the warning, message

_ID_LIKE: Final = re.compile(r"(?:^|[_-])(?:u?u?id|user|owner|account|me|sub|subject|principal)(?:$|[_-])|Id$|id$")
# Parameters of Flask and Django, Express and Rails, Next.js, and shells and templates.
_FOREIGN_CAPTURE: Final = re.compile(
    r"<(?:\w+:)?(?P<flask>\w+)>|:(?P<express>\w+)[?*+]?|\[(?:\.{3})?(?P<next>\w+)\]|\$\{?(?P<shell>\w+)\}?"
)
_WITH_BODY: Final = frozenset({"POST", "PUT", "PATCH"})


def lint(configuration: Configuration) -> tuple[Problem, ...]:
    """Every warning that no comment silences, in file order."""
    settings = configuration.settings
    found = (
        Problem(*settings.position_of(key), key, message, name)
        for rule in _RULES
        for key, name, message in rule(configuration)
    )
    return tuple(sorted(each for each in set(found) if not settings.places.allows(each)))


def _open_beside_restricted(configuration: Configuration) -> Iterator[Finding]:
    for route, restricted, path in open_beside_restricted(configuration):
        message = (
            f"takes {quoted(path)} to the upstream of route '{restricted.name}', which asks for "
            f"{callers_in_words(restricted)}, while this one lets {callers_in_words(route)} through (another upstream, "
            f"a narrower path, or an upstream that is exact about paths and {_allow('open-beside-restricted')})"
        )
        yield f"{_key(route)}.path", "open-beside-restricted", message


def _unreachable(configuration: Configuration) -> Iterator[Finding]:
    for route in unreachable(configuration.policy):
        message = f"is never reached, found {quoted(route.pattern)}: more specific routes take all of its paths"
        yield f"{_key(route)}.path", "unreachable-route", message


def _roles(configuration: Configuration) -> Iterator[Finding]:
    settings = configuration.settings
    required = _required_roles(configuration)
    if settings.roles is None:
        given = _given_roles(settings)
        for role, route in required.items():
            if role not in given:
                message = f"requires the role {quoted(role)}, which nothing grants (declare it under roles)"
                yield f"{_key(route)}.roles", "undeclared-role", message
        return
    for role in settings.roles:
        if not implied([role], settings.roles) & required.keys() and role not in _given_roles(settings):
            message = "is required by no rule, and implies no role that is (leave it out)"
            yield f"roles.{role}", "unused-role", message


def _required_roles(configuration: Configuration) -> dict[str, Route]:
    """Each role named by a rule, with the first such rule."""
    required: dict[str, Route] = {}
    for route in configuration.policy.routes:
        requirement = route.requirement
        for role in sorted((requirement.any or frozenset()) | (requirement.all or frozenset())):
            required.setdefault(role, route)
    return required


def _given_roles(settings: Settings) -> set[str]:
    """The roles that the configuration grants, and the administrator role."""
    mapped = (role for issuer in settings.tokens.external for role in issuer.role_map.values())
    return {settings.accounts.admin_role, *settings.accounts.default_roles, *mapped}


def _owners(configuration: Configuration) -> Iterator[Finding]:
    for route in configuration.policy.routes:
        owner = route.requirement.owner
        if owner is not None and not _ID_LIKE.search(owner):
            message = f"names a segment that is probably not a user id, found {quoted(owner)} (for example user_id)"
            yield f"{_key(route)}.owner", "owner-not-an-id", message


def _websockets(configuration: Configuration) -> Iterator[Finding]:
    for route in configuration.policy.routes:
        public = route.authentication != "required" and route.requirement is NOTHING_MORE
        if route.websocket and public and route.cors is None:
            message = "lets pages of every origin open WebSockets without signing in (cors, or auth: required)"
            yield f"{_key(route)}.websocket", "websocket-on-public-route", message


def _credentials(configuration: Configuration) -> Iterator[Finding]:
    for route in configuration.policy.routes:
        settings = route.settings
        if settings is None or settings.forward_credentials is not True:
            continue
        targets = configuration.settings.upstreams[settings.upstream].targets
        clear = [target for target in targets if target.startswith("http:") and not is_loopback(target)]
        if clear:
            message = f"sends tokens over plain http to {clear[0]} (https://, or false)"
            yield f"{_key(route)}.forward_credentials", "credentials-in-clear", message


def _upstreams(configuration: Configuration) -> Iterator[Finding]:
    used = {route.upstream for route in configuration.policy.routes}
    for name in configuration.settings.upstreams:
        if name not in used:
            yield f"upstreams.{name}", "unused-upstream", "is used by no route (leave it out)"


def _own_targets(configuration: Configuration) -> Iterator[Finding]:
    server = configuration.settings.server
    is_here = server.host in _EVERY_ADDRESS or is_loopback_host(server.host)
    for name, upstream in configuration.settings.upstreams.items():
        for each in map(TargetAddress.of, upstream.targets):
            at_own_host = each.host == server.host or (is_here and is_loopback_host(each.host))
            if at_own_host and not each.socket and each.port == server.port:
                message = (
                    f"is the address of the gateway itself, port {server.port} (the port of the application, another "
                    f"server.port, or {_allow('target-is-gateway')})"
                )
                yield f"upstreams.{name}", "target-is-gateway", message
                break


def _limits(configuration: Configuration) -> Iterator[Finding]:
    server = configuration.settings.server
    if not (server.public_url or "").startswith("https:") or server.trusted_proxies or server.tls:
        return
    for route in configuration.policy.routes:
        limit = route.settings.rate_limit if route.settings is not None else None
        if limit is not None and (limit.by == "address" or route.authentication != "required"):
            message = (
                "counts the address of the proxy that terminates TLS in front of the gateway (server.trusted_proxies)"
            )
            yield f"{_key(route)}.rate_limit", "limit-by-proxy-address", message


def _sessions(configuration: Configuration) -> Iterator[Finding]:
    settings = configuration.settings
    if not settings.tokens.keys and is_in_memory(settings.storage.database.reveal()):
        lifetime = format_duration(settings.tokens.refresh_ttl)
        message = f"allows sessions of {lifetime}, but the generated key is lost when the process ends (tokens.keys)"
        yield "tokens.refresh_ttl", "session-outlives-key", message


def _registration(configuration: Configuration) -> Iterator[Finding]:
    settings = configuration.settings
    if settings.accounts.registration != "open":
        return
    granted = implied(settings.accounts.default_roles, settings.roles or {})
    for route in configuration.policy.routes:
        if not route.shadow and route.authentication == "required" and _admits_any_user(route, granted):
            message = (
                "admits every new account, because accounts.registration is open (closed, a role that new "
                f"accounts do not have, or {_allow('open-registration')})"
            )
            key = "accounts.registration"
            yield key if key in settings.places.written else f"{_key(route)}.path", "open-registration", message
            return


def _admits_any_user(route: Route, roles: set[str]) -> bool:
    """Whether an account with these roles passes the route without being an owner."""
    requirement = route.requirement
    if requirement.names_roles:
        return not roles.isdisjoint(requirement.any or ()) or (requirement.all is not None and requirement.all <= roles)
    return requirement.owner is None


def _own_paths(configuration: Configuration) -> Iterator[Finding]:
    policy = configuration.policy
    for route in policy.routes:
        hidden = [own for own in policy.own if route.shape.has_rest and _is_below(own, route)]
        if hidden and not route.shadow:
            message = (
                f"does not get {quoted(hidden[0].pattern)} and {len(hidden) - 1} more, which the gateway answers "
                f"itself (accounts.prefix moves most of them; {_allow('own-paths-hide')})"
            )
            yield f"{_key(route)}.path", "own-paths-hide", message


def _is_below(own: Route, route: Route) -> bool:
    mine = route.shape.segments
    pairs = zip(mine, own.shape.segments, strict=False)
    return len(mine) <= len(own.shape.segments) and all(a is None or a == b for a, b in pairs)


def _foreign_patterns(configuration: Configuration) -> Iterator[Finding]:
    for route in configuration.policy.routes:
        for segment in route.shape.segments:
            foreign = None if segment is None else _FOREIGN_CAPTURE.fullmatch(segment.decode("utf-8", "replace"))
            if foreign:
                message = (
                    f"has the literal segment {quoted(foreign[0])}, which is a parameter in other routers "
                    f"({{{foreign[foreign.lastgroup or 0]}}}, or {_allow('foreign-pattern')})"
                )
                yield f"{_key(route)}.path", "foreign-pattern", message
                break


def _empty_roles(configuration: Configuration) -> Iterator[Finding]:
    settings = configuration.settings
    if settings.roles is None and "roles" in settings.places.written:
        message = f"is empty, so roles are not checked for spelling (declare them, or {_allow('empty-roles')})"
        yield "roles", "empty-roles", message


def _hosts(configuration: Configuration) -> Iterator[Finding]:
    routes = [route for route in configuration.policy.routes if not route.shadow]
    hidden = next((route for route in routes if route.host is None), None)
    first = next((route for route in routes if route.host is not None), None)
    if hidden is None or first is None or first.host is None:
        return
    message = (
        f"hides every route without a host, such as '{hidden.name}', from requests for {quoted(first.host.decode())} "
        f"(name the host on these routes as well, or {_allow('host-hides-routes')})"
    )
    yield f"{_key(first)}.host", "host-hides-routes", message


def _any_host(configuration: Configuration) -> Iterator[Finding]:
    server = configuration.settings.server
    if not server.hosts and not is_loopback_host(server.host):
        message = (
            f"listens on {server.host} and serves every Host that a client names (server.hosts: the names that clients "
            f"use, or {_allow('any-host')})"
        )
        yield "server.host", "any-host", message


def _unserved_hosts(configuration: Configuration) -> Iterator[Finding]:
    served = configuration.policy.served
    for route in configuration.policy.routes:
        if served is not None and route.host is not None and route.host not in served:
            host = quoted(route.host.decode())
            message = f"is never reached, found {host}: server.hosts does not list it (add it there)"
            yield f"{_key(route)}.host", "unreachable-route", message


def _json_from_pages(configuration: Configuration) -> Iterator[Finding]:
    for route in configuration.policy.routes:
        cors = None if route.settings is None else route.settings.cors
        if cors is None:
            continue
        sends = {method for method in _WITH_BODY if route.serves(method.encode())} & set(cors.methods or _WITH_BODY)
        if sends and not {"*", "content-type"} & {name.lower() for name in cors.headers}:
            message = (
                "refuses JSON from pages: browsers ask before they send Content-Type (headers: [Content-Type], or "
                f"{_allow('cors-without-content-type')})"
            )
            yield f"{_key(route)}.cors", "cors-without-content-type", message


def _weaker_methods(configuration: Configuration) -> Iterator[Finding]:
    """Routes that write with weaker conditions than a route that reads at the same place."""
    places: dict[object, list[Route]] = {}
    for route in configuration.policy.routes:
        if not route.shadow and route.authentication != "none":
            places.setdefault((route.host, route.shape.shape), []).append(route)
    for routes in places.values():
        readers = [route for route in routes if route.serves(b"GET")]
        for route in routes:
            writes = any(map(route.serves, map(str.encode, (*_WITH_BODY, "DELETE"))))
            reader = next((each for each in readers if each is not route and _is_weaker(route, each)), None)
            if writes and reader is not None:
                message = (
                    f"asks for less than route '{reader.name}', which reads here: "
                    f"{', '.join(conditions_in_words(reader.conditions))} (the same conditions, or "
                    f"{_allow('weaker-method')})"
                )
                yield f"{_key(route)}.path", "weaker-method", message


def _is_weaker(route: Route, other: Route) -> bool:
    """Whether any condition of the other route is stricter."""
    mine, its = route.conditions or NO_CONDITIONS, other.conditions or NO_CONDITIONS
    kinds, others = (CREDENTIAL_KINDS if each.kinds is None else each.kinds for each in (mine, its))
    oldest, limit = (inf if each.fresh is None else each.fresh for each in (mine, its))
    return not kinds <= others or oldest > limit or (its.verified and not mine.verified)


def _fresh_on_read(configuration: Configuration) -> Iterator[Finding]:
    for route in configuration.policy.routes:
        if route.conditions is not None and route.conditions.fresh is not None and route.serves(b"GET"):
            message = (
                "asks readers to sign in again as well (a route with methods for the changes, or "
                f"{_allow('fresh-on-read')})"
            )
            yield f"{_key(route)}.fresh", "fresh-on-read", message


def _allow(name: str) -> str:
    """The comment that silences a warning, for use in its message."""
    return f"'# gateway: allow {name}'"


def _key(route: Route) -> str:
    return route.settings.key if route.settings is not None else "routes"


_RULES: Final[tuple[Callable[[Configuration], Iterator[Finding]], ...]] = (
    _open_beside_restricted,
    _unreachable,
    _roles,
    _owners,
    _websockets,
    _credentials,
    _upstreams,
    _own_targets,
    _limits,
    _sessions,
    _registration,
    _own_paths,
    _foreign_patterns,
    _empty_roles,
    _hosts,
    _any_host,
    _unserved_hosts,
    _json_from_pages,
    _weaker_methods,
    _fresh_on_read,
)
