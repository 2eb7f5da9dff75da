"""Random policies and requests, for comparing the decisions of two proxies.

A seed determines everything, so that differences can be reproduced.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

UPSTREAMS: Final = ("alpha", "beta", "gamma")
ROLES: Final = {"admin": ["editor"], "editor": ["user"], "user": [], "auditor": []}
HOSTS: Final = ("admin.example.com", "other.example.com")
PEOPLE: Final = ("user", "editor", "admin", "auditor")
IDENTITY: Final = ("X-User-Id", "X-User-Email", "X-User-Roles")

_LITERALS: Final = ("a", "b", "items", "admin", "v1.2", "public", "caf%C3%A9", "x!y", "a%20b", "~me", "p,q", "(1)")
_METHODS: Final = ("GET", "GET", "GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE")
_TRICKS: Final = (
    "..", ".", "...", "%2e%2e", ".%2e", "%2E", "%2f", "a%2Fb", "%5c", "\\", "%00", "%7f", "%3b", ";x=1", "..;", "%23",
    "%3f", "%252e", "%25", "%25zz", "%2541", "%25%34%31", "%zz", "%", "%c0%ae", "%c3",
    "%C3%A9", "%ed%a0%80", "%f0%9f%98%80",
    "%20", "..%20", "*", "%2A", "@", "a=b", "", "", "%61", "%2d", "caf%c3%a9", "x%21y", "%7Eme", "p%2cq", "%28 1)",
)  # fmt: skip
_QUERIES: Final = ("", "", "", "?", "?a=b", "?path=/public&x=%zz", "?//../;", "?q=1?2", "?access_token=x")
_FORGED: Final = (
    "X-User-Id: root", "x_user_id: root", "X.User.Roles: admin", "X-USER_EMAIL: a@b.c", "X-Forwarded-Uri: /public/x",
    "X-Original-URI: /public/x", "X-Forwarded-Method: OPTIONS", "X-Forwarded-For: 10.1.2.3", "X-Gateway-Route: /**",
    "x-envoy-original-path: /public", "X-Gateway-Path: /public", "X_Gateway_Chunked: 1",
    "X-Forwarded-Host: other.example.com",
    "Forwarded: for=10.0.0.1", "x-envoy-auth-headers-to-remove: x-user-id", "Connection: keep-alive, X-User-Id",
    "X-Rewrite-URL: /public/x", "X!User!Id: root", "X'User'Roles: admin", "X~Forwarded|For: 10.1.2.3", "Proxy: x:1",
    "X-HTTP-Method-Override: DELETE", "X_Method*Override: PUT", "True-Client-IP: 10.1.2.3", "X-Client`IP: 10.1.2.3",
    "X-Forwarded: for=10.0.0.1", "X-Forwarded-Prefix: /public", "X-Forwarded-Port: 1",
)  # fmt: skip

Route = dict[str, Any]


@dataclass(slots=True)
class Asked:
    """A request, and its description in reports."""

    method: str
    target: str
    host: str
    person: str
    fields: list[str] = field(default_factory=list)
    body: bytes | None = None
    chunked: bool = False

    def as_bytes(self, tokens: dict[str, str]) -> bytes:
        """The serialized request with the credential of its person."""
        lines = [f"{self.method} {self.target} HTTP/1.1", f"Host: {self.host}", "Connection: close", *self.fields]
        if self.person == "two at once":
            lines += [f"Authorization: {tokens['user']}", f"Authorization: {tokens['admin']}"]
        elif self.person == "in lower case":
            lines.append(f"Authorization: {tokens['user'].replace('Bearer', 'bearer')}")
        elif self.person in tokens:
            lines.append(f"Authorization: {tokens[self.person]}")
        content = b"" if self.body is None else self.body
        if self.chunked:
            lines.append("Transfer-Encoding: chunked")
            content = b"%x\r\n%b\r\n0\r\n\r\n" % (len(content), content) if content else b"0\r\n\r\n"
        elif self.body is not None:
            lines.append(f"Content-Length: {len(content)}")
        return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + content


class PolicyGenerator:
    """Generates policies and requests. `native`: only what Envoy can decide without the gateway."""

    def __init__(self, seed: int, *, native: bool = False) -> None:
        self._random = random.Random(seed)
        self._native = native

    # ---- policies

    def routes(self, count: int) -> list[Route]:
        """Some routes, no two of which match the same requests."""
        taken: set[tuple[str, str]] = set()
        routes: list[Route] = [{"path": "/public/**", "auth": "none", "upstream": "alpha", "name": "open"}]
        for number in range(count):
            route = self._route(number)
            place = (str(route.get("host")), self._shape(route["path"]))
            if place not in taken and place != ("None", "/public/**"):
                taken.add(place)
                routes += self._with_other_method(route)
        return routes

    def _route(self, number: int) -> Route:
        pick = self._random
        path, names = self._path()
        route: Route = {"path": path, "upstream": pick.choice(UPSTREAMS), "name": f"r{number}"}
        route["auth"] = pick.choice(["none", "optional", "required", "required"])
        if route["auth"] == "required" and pick.random() < 0.6:
            route["roles"] = pick.choice([["admin"], ["editor"], ["user", "auditor"], {"all": ["user", "auditor"]}])
        if names and route["auth"] == "required" and not self._native and pick.random() < 0.4:
            route["owner"] = names[0]
        if pick.random() < 0.4:
            route["methods"] = pick.choice([["GET"], ["GET", "POST"], ["PUT", "DELETE"], ["POST"], ["GET", "TRACE"]])
        if pick.random() < 0.2:
            route["host"] = pick.choice(HOSTS)
        if pick.random() < 0.2:
            route["forward_credentials"] = True
        if pick.random() < 0.3:
            route["max_body"] = pick.choice([0, 10, 1000])
        self._add_rewrite(route, path, names)
        if not self._native:
            self._add_more(route)
        return route

    def _add_rewrite(self, route: Route, path: str, names: list[str]) -> None:
        pick = self._random.random()
        first = path.split("/")[1]
        if pick < 0.15 and first not in ("**", "") and not first.startswith("{"):
            route["strip_prefix"] = f"/{first}"
        elif pick < 0.3:
            captured = "".join(f"/{{{name}}}" for name in reversed(names))
            route["rewrite"] = f"/v2{captured}{'/{**}' if path.endswith('/**') else ''}"

    def _add_more(self, route: Route) -> None:
        pick = self._random
        if pick.random() < 0.15:
            route["encoded_slash"] = "keep"
        if pick.random() < 0.15:
            route["cors"] = {"origins": ["https://app.example.com"]}
        if pick.random() < 0.15:
            route["rate_limit"] = {"requests": 1_000_000, "per": "1h", "by": "address"}

    def _path(self) -> tuple[str, list[str]]:
        pick = self._random
        names: list[str] = []
        parts: list[str] = []
        for _ in range(pick.randint(0, 3)):
            if pick.random() < 0.3:
                names.append(f"n{len(names)}")
                parts.append("{" + names[-1] + "}")
            else:
                parts.append(pick.choice(_LITERALS))
        if pick.random() < 0.5:
            parts.append("**")
        return "/" + "/".join(parts), names

    def _with_other_method(self, route: Route) -> list[Route]:
        methods = route.get("methods")
        if methods is None or "PATCH" in methods or self._random.random() < 0.5:
            return [route]
        other = {"path": route["path"], "methods": ["PATCH"], "auth": "required", "upstream": "gamma"}
        if "host" in route:
            other["host"] = route["host"]
        return [route, {**other, "name": f"{route['name']}-patch", "roles": ["admin"]}]

    def _shape(self, path: str) -> str:
        return "/".join("{}" if part.startswith("{") else part for part in path.split("/"))

    # ---- requests

    def asked(self, routes: Sequence[Route]) -> Asked:
        """One request, mostly for one of the routes, in a random spelling."""
        pick = self._random
        route = pick.choice(routes)
        host = route.get("host", "gateway.test") if pick.random() < 0.8 else pick.choice((*HOSTS, "gateway.test"))
        method = pick.choice([*route.get("methods", _METHODS), pick.choice(_METHODS)])
        person = pick.choice((*PEOPLE, *PEOPLE, "nobody", "nobody", "garbage", "basic", "two at once", "in lower case"))
        asked = Asked(method, self._target(route["path"]), self._host(host), person)
        if pick.random() < 0.3:
            asked.fields += pick.sample(_FORGED, pick.randint(1, 4))
        if pick.random() < 0.15:
            asked.fields.append(pick.choice(["Origin: https://app.example.com", "Origin: https://evil.example"]))
            if method == "OPTIONS":
                asked.fields.append("Access-Control-Request-Method: GET")
        if method in ("POST", "PUT", "PATCH", "DELETE"):
            asked.body = b"x" * pick.choice([0, 5, 500, 2000])
            asked.chunked = pick.random() < 0.2
        return asked

    def _host(self, host: str) -> str:
        return self._random.choice([host, host, host, host.upper(), f"{host}:8080", f"{host}."])

    def _target(self, path: str) -> str:
        pick = self._random
        parts = [self._segment(part) for part in path.split("/")[1:] if part != "**"]
        if path.endswith("**"):
            parts += [pick.choice(_LITERALS) for _ in range(pick.randint(0, 2))]
        generator = pick.random()
        if generator < 0.25:
            parts.insert(pick.randint(0, len(parts)), pick.choice(_TRICKS).replace(" ", ""))
        elif generator < 0.4:
            parts = [self._respelled(part) for part in parts]
        slash = pick.choice(["", "", "", "/"])
        return "/" + "/".join(parts) + slash + pick.choice(_QUERIES)

    def _segment(self, part: str) -> str:
        if part.startswith("{"):
            return self._random.choice(["7", "me", "OWN", "x.y", "%41", "a"])
        return part

    def _respelled(self, part: str) -> str:
        """Escape some characters unnecessarily, and vary the case of escapes."""
        pick = self._random
        if "%" in part:
            return part.lower() if pick.random() < 0.5 else part
        return "".join(f"%{ord(each):02x}" if pick.random() < 0.3 else each for each in part)
