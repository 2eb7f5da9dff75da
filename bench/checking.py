"""Checks of each peer before its measurement: correct responses and correct refusals."""

import http.client
import json

from bench.peers.gateway import connection
from bench.peers.peer import FORBIDDEN, INSPECT, ITEM, Peer
from bench.processes import BenchError
from bench.traffic import Headers, caller_headers
from bench.upstream import BODY


def ask(port: int, path: str, headers: Headers) -> tuple[int, bytes]:
    """Status and body of one GET. Raises BenchError without an answer."""
    try:
        with connection(port) as link:
            link.request("GET", path, headers=dict(headers))
            answer = link.getresponse()
            return answer.status, answer.read()
    except (OSError, http.client.HTTPException) as error:
        raise BenchError(f"GET {path}: {error!r}") from error


def check(peer: Peer, port: int, credential: str) -> None:
    """Raise BenchError unless the peer answers and refuses as its description says."""
    status, body = ask(port, ITEM, caller_headers(credential))
    if (status, body) != (200, BODY):
        raise BenchError(f"GET {ITEM} answered {status} {body[:200]!r}")
    if peer.identity:
        _check_refusals(port, credential)
        _check_identity(port, credential)


def _check_refusals(port: int, credential: str) -> None:
    good = caller_headers(credential)
    cases = [
        ("without a token", ITEM, good[:-1], 401),
        ("with a forged signature", ITEM, caller_headers(forged(credential)), 401),
        ("with a malformed token", ITEM, caller_headers("nonsense"), 401),
        ("without the role", FORBIDDEN, good, 403),
    ]
    for what, path, headers, expected in cases:
        status, _ = ask(port, path, headers)
        if status != expected:
            raise BenchError(f"GET {path} {what} answered {status}, not {expected}")


def _check_identity(port: int, credential: str) -> None:
    """The identity at the upstream comes from the proxy and cannot be set by the client."""
    status, body = ask(port, INSPECT, [*caller_headers(credential), ("X-User-Id", "somebody-else")])
    if status != 200:
        raise BenchError(f"GET {INSPECT} answered {status} {body[:200]!r}")
    seen = json.loads(body)
    if not seen["id"] or "somebody-else" in seen["id"]:
        raise BenchError(f"the upstream saw X-User-Id {seen['id']!r}")
    if seen["authorization"]:
        raise BenchError("the upstream saw the caller's Authorization")


def forged(token: str) -> str:
    """The token with another signature of the same length."""
    head, _, signature = token.rpartition(".")
    middle = len(signature) // 2
    other = "A" if signature[middle] != "A" else "B"
    return f"{head}.{signature[:middle]}{other}{signature[middle + 1 :]}"
