"""Traffic that tries to fill the memory of a gateway, as data. `driving.py` sends it.

Row numbers group the attacks: 1 refusals, 2 closed connections, 3 any kind of garbage, 4 idle connections, 5 caches.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Final, Literal

KIB: Final = 1024
LARGE: Final = 31 * KIB  # bytes of a head just below the default `server.max_header_size`
MOST_FIELDS: Final = 990  # just below the gateway's limit

Requests = Callable[[str], Iterator[bytes]]
Answers = Callable[[], Iterator[bytes]]


@dataclass(frozen=True, slots=True)
class Attack:
    """`requests` takes the token of a user and yields the requests of one connection. `answers` yields the responses of
    the upstream; None stands for plain ones. `statuses` are the expected statuses of the gateway.

    `closes`: each request uses a new connection. `leaves`: the client closes after sending the request, or at the first
    byte of the response. `sections` override the configuration.
    """

    name: str
    row: int
    requests: Requests
    statuses: frozenset[int] = frozenset((200,))
    answers: Answers | None = None
    closes: bool = False
    leaves: Literal["sent", "answered"] | None = None
    sections: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def configuration(attack: Attack | None, upstream: str, folder: Path) -> dict[str, Any]:
    """The configuration of the attacked gateway."""
    sections: dict[str, Any] = {
        "server": {"max_connections": 20_000, "max_body": "10MiB"},
        "storage": {"database": f"sqlite:///{folder}/gateway.db"},
        "accounts": {"password": {"bcrypt_rounds": 4}, "default_roles": ["user"]},
        "tokens": {"access_ttl": "12h"},
        "observability": {"access_log": "off"},
        "upstreams": {"web": {"targets": [upstream], "max_connections": 4096, "eject": None}},
        "routes": [
            {"path": "/open/**", "auth": "none", "upstream": "web"},
            {
                "path": "/limited/**",
                "auth": "none",
                "rate_limit": {"requests": 1_000_000, "per": "1s", "by": "address"},
                "upstream": "web",
            },
            {"path": "/api/**", "roles": ["user"], "upstream": "web"},
            {"path": "/admins/**", "roles": ["admin"], "upstream": "web"},
            {"path": "/reads/**", "auth": "none", "methods": ["GET"], "upstream": "web"},
            {"path": "/sockets/**", "roles": ["user"], "websocket": True, "upstream": "web"},
        ],
    }
    for name, section in ({} if attack is None else attack.sections).items():
        sections[name] = {**sections.get(name, {}), **section}
    return sections


def request(
    target: str, *lines: bytes, method: str = "GET", host: str = "gateway.test", size: int = 0, body: bytes = b""
) -> bytes:
    """A request whose head is padded to `size` bytes."""
    head = b"%b %b HTTP/1.1\r\nHost: %b\r\n" % (method.encode(), target.encode(), host.encode())
    head += b"".join([line + b"\r\n" for line in lines])
    missing = size - len(head) - len(b"X-Filler: \r\n\r\n")
    if missing > 0:
        head += b"X-Filler: %b\r\n" % (b"f" * missing)
    return head + b"\r\n" + body


def of_short_fields(target: str, *lines: bytes) -> bytes:
    """A large head with the maximum number of fields."""
    fields = [b"A%03d: %b" % (number, b"v" * 23) for number in range(MOST_FIELDS)]
    return request(target, *lines, *fields)


def bearer(token: str) -> bytes:
    """The Authorization field line for a token."""
    return b"Authorization: Bearer " + token.encode()


def same(target: str, *lines: bytes, signed_in: bool = False, **options: Any) -> Requests:
    """The same request repeatedly."""

    def requests(token: str) -> Iterator[bytes]:
        head = request(target, *lines, *([bearer(token)] if signed_in else []), **options)
        while True:
            yield head

    return requests


def numbered(make: Callable[[int], bytes]) -> Requests:
    """A different request each time, across all connections."""
    numbers = count()
    return lambda token: (make(number) for number in numbers)


HANDSHAKE: Final = (
    b"Connection: Upgrade",
    b"Upgrade: websocket",
    b"Sec-WebSocket-Version: 13",
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)
_CHUNKED: Final = b"Transfer-Encoding: chunked"
_JSON: Final = b"Content-Type: application/json"


def _refusals() -> Iterator[Attack]:
    for name, status, requests in (
        ("path", 400, same("/open/%2e%2e/x", size=LARGE)),
        ("host", 400, same("/open/x", host="a_b..c", size=LARGE)),
        ("token-missing", 401, same("/api/x", size=LARGE)),
        ("token-invalid", 401, same("/api/x", b"Authorization: Bearer nonsense", size=LARGE)),
        ("role", 403, same("/admins/x", signed_in=True, size=LARGE)),
        ("route", 404, same("/nowhere", size=LARGE)),
        ("method", 405, same("/reads/x", method="DELETE", size=LARGE)),
        ("websocket", 403, same("/open/x", *HANDSHAKE, size=LARGE)),
        ("websocket-token", 401, same("/sockets/x", *HANDSHAKE, size=LARGE)),
        ("own", 401, same("/auth/me", size=LARGE)),
        ("login", 400, same("/auth/login", _JSON, b"Content-Length: 1", method="POST", size=LARGE, body=b"{")),
    ):
        yield Attack(f"refused-{name}", 1, requests, frozenset((status,)))
    small = numbered(lambda number: request("/api/x", b"Authorization: Bearer bad%024d" % number))
    yield Attack("refused-small-tokens", 1, small, frozenset((401,)))
    for name, status, requests in (
        ("body", 413, same("/open/x", b"Content-Length: 99999999", method="POST", size=LARGE)),
        ("malformed", 400, same("/open/x", b"bad line", size=LARGE)),
        ("too-large", 431, same("/open/x", size=40 * KIB)),
    ):
        yield Attack(f"refused-{name}", 1, requests, frozenset((status,)), closes=True)


def _closings() -> Iterator[Attack]:
    yield Attack("closed-large", 2, same("/open/x", size=LARGE), closes=True)
    yield Attack("closed-small", 2, same("/open/x", size=KIB), closes=True)
    yield Attack("closed-signed-in", 2, same("/api/x", signed_in=True, size=LARGE), closes=True)
    yield Attack("closed-fields", 2, lambda token: iter(lambda: of_short_fields("/open/x"), b""), closes=True)
    half = b"GET /open/x HTTP/1.1\r\nHost: a\r\nX-Filler: " + b"f" * LARGE
    yield Attack("left-mid-head", 2, lambda token: iter(lambda: half, b""), leaves="sent")
    upload = same("/open/x", b"Content-Length: 1000000", method="POST", size=LARGE, body=b"b" * 1000)
    yield Attack("left-mid-body", 2, upload, leaves="sent")
    chunks = same("/open/x", _CHUNKED, method="POST", size=LARGE, body=b"5\r\nhello\r\n")
    yield Attack("left-mid-chunks", 2, chunks, leaves="sent")
    yield Attack("left-events", 2, same("/open/events", size=LARGE), leaves="answered")
    yield Attack("left-socket", 2, same("/sockets/x", *HANDSHAKE, signed_in=True, size=LARGE), leaves="answered")


def _caches() -> Iterator[Attack]:
    """Names and values that never repeat."""
    mebibyte = {"server": {"max_header_size": "1MiB"}}
    trusting = {"server": {"trusted_proxies": ["127.0.0.0/8"]}}
    for name, make, sections in (
        ("names", lambda n: request("/open/x", b"X-%07d-%b: v" % (n, b"n" * 30_000)), {}),
        ("names-short", lambda n: request("/open/x", *(b"X-%07d-%03d: v" % (n, i) for i in range(500))), {}),
        ("names-of-a-mebibyte", lambda n: request("/open/x", b"X-%07d-%b: v" % (n, b"n" * 1_000_000)), mebibyte),
        ("hosts", lambda n: request("/open/x", host=f"h{n:07d}.{'a.' * 100}test"), {}),
        ("paths", lambda n: request(f"/open/{n:07d}/{'p' * 8000}"), {}),
        ("request-ids", lambda n: request("/open/x", b"X-Request-Id: %0120d" % n), {}),
        (
            "forwarded",
            lambda n: request("/limited/x", b"X-Forwarded-For: %b, 2001:db8::%x" % (b"1" * 30_000, n)),
            trusting,
        ),
        ("zones", lambda n: request("/limited/x", b"X-Forwarded-For: fe80::1%%%b%d" % (b"z" * 30_000, n)), trusting),
    ):
        yield Attack(name, 5, numbered(make), sections=sections)
    for name, answers in (
        ("upstream-names", lambda: (_answer(b"X-%07d-%b: v" % (n, b"n" * 30_000)) for n in count())),
        ("upstream-values", lambda: (_answer(b"X-A: %07d%b" % (n, b"v" * 60_000)) for n in count())),
        ("upstream-reasons", lambda: (_answer(reason=b"r%07d%b" % (n, b"r" * 30_000)) for n in count())),
    ):
        yield Attack(name, 5, same("/open/x"), answers=answers)


def _answer(*lines: bytes, reason: bytes = b"OK") -> bytes:
    head = b"".join([line + b"\r\n" for line in (b"HTTP/1.1 200 " + reason, *lines)])
    return head + b"Content-Length: 5\r\n\r\nhello"


ATTACKS: Final[Mapping[str, Attack]] = {attack.name: attack for attack in (*_refusals(), *_closings(), *_caches())}
