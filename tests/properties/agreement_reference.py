"""A naive reference for decisions, computed from the text of the configuration by trying every route.

It uses no trie, no compiled routes and no caches. Only the canonical path is the gateway's own.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import unquote_to_bytes

from gateway.analysis.explain import Person
from gateway.wire.paths import CanonicalPath

Route = dict[str, Any]
Rank = tuple[int, ...]


class Request(NamedTuple):
    """A request with its path and host in canonical form."""

    path: CanonicalPath
    host: str
    method: str


def naive(routes: Sequence[Route], roles: Mapping[str, Sequence[str]], request: Request, person: Person | None) -> str:
    """`allowed ROUTE`, `CODE ROUTE`, or `CODE` without a route."""
    path, host, method = request
    enforced = [route for route in routes if not route.get("shadow")]
    named = {route["host"].lower() for route in enforced if "host" in route}
    seen = [route for route in enforced if route.get("host", "").lower() == (host if host in named else "")]
    segments = [unquote_to_bytes(part) for part in path.strip(b"/").split(b"/")] if path.strip(b"/") else []
    ranked = [(rank, route) for route in seen if (rank := _rank(route["path"], segments)) is not None]
    if not ranked:
        return "bad_path" if b"%2F" in bytes(path) else "no_route"
    best = min(rank for rank, _ in ranked)
    place = [route for rank, route in ranked if rank == best]
    serving = [route for route in place if _serves(route, method)]
    if b"%2F" in bytes(path) and not any(route.get("encoded_slash") == "keep" for route in serving or place):
        return "bad_path"
    if not serving:
        return "method_not_allowed"
    return f"{_authorized(serving[0], roles, segments, person)} {serving[0]['name']}"


def _rank(pattern: str, segments: list[bytes]) -> Rank | None:
    """The specificity of a match: 0 for a literal, 1 for a capture, 2 for the rest. Smaller is more specific."""
    parts = pattern.strip("/").split("/") if pattern.strip("/") else []
    rank: list[int] = []
    for number, part in enumerate(parts):
        if part == "**":
            return (*rank, 2)
        if number >= len(segments):
            return None
        if not part.startswith("{") and unquote_to_bytes(part) != segments[number]:
            return None
        rank.append(1 if part.startswith("{") else 0)
    return tuple(rank) if len(parts) == len(segments) else None


def _serves(route: Route, method: str) -> bool:
    methods = route.get("methods")
    if methods is None:
        return method != "TRACE"
    return method in methods or (method == "HEAD" and "GET" in methods)


def _authorized(route: Route, roles: Mapping[str, Sequence[str]], segments: list[bytes], person: Person | None) -> str:
    asks = "roles" in route or "owner" in route
    if route.get("auth", "required") != "required" and not asks:
        return "allowed"
    if person is not None and person.state != "active":
        return "user_inactive"
    if person is None:
        return "token_missing"
    held = set(person.own_roles)
    while more := {implied for role in held for implied in roles.get(role, ())} - held:
        held |= more
    required = route.get("roles")
    fits = (
        all(role in held for role in required["all"])
        if isinstance(required, dict)
        else bool(held & set(required or ()))
    )
    parts = route["path"].strip("/").split("/")
    owner = route.get("owner")
    is_owner = owner is not None and segments[parts.index(f"{{{owner}}}")] == person.id.encode()
    return "allowed" if fits or is_owner or not asks else "forbidden"
