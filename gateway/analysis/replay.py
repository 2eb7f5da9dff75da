"""Replay recorded requests against another policy and report changed decisions.

A line of the JSON access log contains the request (host, method, path), the caller (user and own roles) and the result
(route, status, code). The new decision is simulated by the same function as in `gateway explain`. Assumptions where the
log has no data: on routes without authentication the caller is anonymous; a caller refused for its token has none; a
request with a cookie comes from an own page; the address of the caller is verified; status 101 and its refusals
identify handshakes; limits, sizes and upstreams do not depend on the policy.
"""

import json
import re
from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Any, Final, NamedTuple

from gateway.analysis.simulate import PolicyRequest, Subject, simulate
from gateway.policy.loader import Configuration
from gateway.policy.roles import RoleHierarchy

ALLOWED: Final = "allowed"
UNAUTHENTICATED: Final = "unauthenticated"

# Refusals decided by the policy. All other codes arise after the policy has allowed the request.
_REFUSED: Final[Mapping[str, str]] = {
    "bad_path": "bad_path",
    "no_route": "no_route",
    "method_not_allowed": "method_not_allowed",
    "websocket_not_allowed": "websocket_not_allowed",
    "forbidden": "forbidden",
    "registration_closed": "registration_closed",
    # The policy cannot see why a token was refused, so these codes count as one.
    "token_missing": UNAUTHENTICATED,
    "token_invalid": UNAUTHENTICATED,
    "token_expired": UNAUTHENTICATED,
    "token_revoked": UNAUTHENTICATED,
    "user_inactive": UNAUTHENTICATED,
}
# Refused before the policy decided, or by data that the log does not contain.
_UNDECIDED: Final = frozenset(
    (
        *("bad_host", "misdirected", "bad_request", "headers_too_large", "request_timeout", "method_not_implemented"),
        *("storage_unavailable", "internal_error", "origin_not_allowed"),
        *("cross_site", "credential_not_allowed", "reauthentication_required", "email_unverified"),
    )
)
_CUT: Final = 1024  # In bytes: the access log truncates longer paths of requests without a route.
# Every line of the access log has these keys.
_OURS: Final = (b'"request_id"', b'"route"', b'"code"')
# Logs in other formats that users pass by mistake, and why they cannot be replayed.
_FOREIGN: Final = tuple(
    (re.compile(pattern), reason)
    for pattern, reason in (
        (rb"\A\s*\{\s*\"log\"\s*:\s*\"", "Docker has wrapped it; 'docker logs CONTAINER' prints the log itself"),
        (rb"\"logger\":\"http\.log", "it is a line of Caddy's access log"),
        (rb"\"(?:RequestPath|DownstreamStatus)\":", "it is a line of Traefik's access log"),
        (rb"\A\S+ \S+ \S+ \[[^\]]+\] \"", "it is in the common log format, as nginx, Apache and Traefik write it"),
        (rb"\A\xef\xbb\xbf", "it begins with a byte order mark (U+FEFF)"),
        (
            rb"\A[^{\x00]+\{.*\"request_id\"",
            "text precedes the record; 'docker compose logs --no-log-prefix', 'kubectl logs' and 'journalctl -o cat' "
            "print the log itself",
        ),
        (rb"\A\x1f\x8b|\A\x28\xb5\x2f\xfd|\x00", "it is binary (a compressed log ends in .gz)"),
    )
)
MOST_REMEMBERED: Final = 65_536
MOST_GROUPS: Final = 10_000
_MOST_EXAMPLES: Final = 3
_METHODS: Final = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"))
_OTHER: Final = "other"


class Group(NamedTuple):
    """Requests with the same change. Routes are named, "" for none; decisions are `allowed`, `unauthenticated` or a
    refusal code."""

    method: str
    old_route: str
    new_route: str
    old: str
    new: str


class Example(NamedTuple):
    """A recorded request of a group."""

    request_id: str
    host: str
    path: str
    user: str
    roles: tuple[str, ...]


@dataclass(slots=True)
class ReplayedChange:
    """The number of requests in a group, and the first few as examples."""

    count: int = 0
    examples: list[Example] = field(default_factory=list)


class Unreadable(NamedTuple):
    """A line that could not be replayed: its number, counted from 1, and the reason."""

    line: int
    reason: str


@dataclass(slots=True)
class ReplayReport:
    """The results so far. `undecided` counts requests that reached no policy decision, `others` lines of the decision
    log and empty lines; `unreadable` lists the first few of the `lost` lines."""

    lines: int = 0
    replayed: int = 0
    changed: int = 0
    undecided: int = 0
    others: int = 0
    lost: int = 0
    unreadable: list[Unreadable] = field(default_factory=list)
    changes: dict[Group, ReplayedChange] = field(default_factory=dict)


_Outcome = tuple[str, str] | None  # The new route and decision; None if unknown.


class Replay:
    """Replays lines against one policy and accumulates `report`."""

    def __init__(self, configuration: Configuration) -> None:
        self.report: Final = ReplayReport()
        self._policy = configuration.policy
        self._expand = RoleHierarchy(configuration.settings.roles).expand
        self._own = frozenset(route.name for route in self._policy.own)
        self._pages = frozenset(route.name for route in self._policy.routes if route.cors is not None)
        conditions = (route.conditions for route in self._policy.routes if route.conditions is not None)
        self._ages = sorted({each.fresh for each in conditions if each.fresh is not None})
        self._remembered: dict[tuple[Any, ...], Group | None] = {}
        self._parse: Callable[[str], Any] = json.JSONDecoder().decode

    def line(self, line: bytes) -> None:
        """Replay one line. Never raises: unreadable lines are counted."""
        report = self.report
        report.lines += 1
        try:
            entry = self._parse(line.decode())
            if "decision" in entry:
                report.others += 1
                return
            roles, code = tuple(entry["roles"]), entry["code"]
            sign_in = entry.get("credential", "token"), self._age(entry.get("age", 0))
            request = entry["host"], entry["method"], entry["path"], entry["route"]
            key = (*request, code, entry["status"], entry["user"], roles, sign_in)
            try:
                group = self._remembered[key]
            except KeyError:
                group = self._remember(key)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            self._lose(line, error)
            return
        if code in _UNDECIDED:
            report.undecided += 1
            return
        report.replayed += 1
        if group is not None:
            self._note(group, entry, roles)

    def _age(self, age: float) -> float:
        """The highest age that every route judges like this one."""
        number = bisect_left(self._ages, age)
        return self._ages[number] if number < len(self._ages) else inf

    def _remember(self, key: tuple[Any, ...]) -> Group | None:
        if len(self._remembered) >= MOST_REMEMBERED:
            self._remembered.clear()
        group = self._remembered[key] = self._compared(*key)
        return group

    def _compared(self, host: str, method: str, path: str, route: str, code: str, *others: Any) -> Group | None:
        """The change for a request, None for no change. Raises TypeError or ValueError for a malformed line."""
        status, user, roles, (kind, age) = others
        if code in _UNDECIDED:
            return None
        if not route and len(path) >= _CUT:
            raise ValueError("its path is cut off")
        old = _REFUSED.get(code, ALLOWED)
        if route in self._own and old not in (ALLOWED, UNAUTHENTICATED) and route.startswith("operations."):
            old = ALLOWED  # An operational endpoint that checks its caller itself.
        if method == "OPTIONS" and status == 204 and route in self._pages:
            return None  # A preflight, which the gateway answers by the CORS rule.
        caller = None
        if user and old != UNAUTHENTICATED:
            caller = Subject(user, self._expand(frozenset(roles)), kind=kind, signed_in=age)
        request = PolicyRequest(
            method=method.encode("latin-1"),
            target=path.encode("latin-1"),
            host=host.encode("latin-1") or None,
            websocket=status == 101 or code == "websocket_not_allowed",
            fetch_site=b"same-origin",
        )
        verdict = simulate(self._policy, request, caller)
        refusal = verdict.refusal
        new = ALLOWED if refusal is None else _REFUSED.get(refusal.code, refusal.code)
        new_route = verdict.route.name if verdict.route is not None else ""
        if old == new and (route == new_route or new != ALLOWED):
            return None
        return Group(method if method in _METHODS else _OTHER, route, new_route, old, new)

    def _note(self, group: Group, entry: dict[str, Any], roles: tuple[str, ...]) -> None:
        report = self.report
        report.changed += 1
        change = report.changes.get(group)
        if change is None:
            if len(report.changes) >= MOST_GROUPS:
                group = Group(_OTHER, _OTHER, _OTHER, group.old, group.new)
            change = report.changes.setdefault(group, ReplayedChange())
        change.count += 1
        if len(change.examples) < _MOST_EXAMPLES:
            request_id = str(entry.get("request_id", ""))
            change.examples.append(Example(request_id, entry["host"], entry["path"], entry["user"], roles))

    def _lose(self, line: bytes, error: Exception) -> None:
        report = self.report
        if not line.strip():
            report.others += 1
            return
        report.lost += 1
        if len(report.unreadable) < _MOST_EXAMPLES:
            report.unreadable.append(Unreadable(report.lines, _why(line, error)))


def _why(line: bytes, error: Exception) -> str:
    match error:
        case KeyError(args=[str(name)]) if all(key in line for key in _OURS):
            older = ": an older version wrote it" if name in ("host", "roles") else ""
            return f"it has no {name}{older}"
        case ValueError(args=[str(reason)]) if not isinstance(error, json.JSONDecodeError | UnicodeDecodeError):
            return reason
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    is_json = not isinstance(error, json.JSONDecodeError | UnicodeDecodeError)
    other = "it is not a line of the access log" if is_json else "it is not JSON"
    return next((why for pattern, why in _FOREIGN if pattern.search(line)), other)
