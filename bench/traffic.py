"""The requests of the load: heads that vary, heads that repeat, and requests that the proxy refuses.

Real clients send no head twice: each request has a trace context and a correlation id of its own. The main figures
therefore come from 4,096 different heads in turn, which exceed every cache of heads.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.load import request_bytes
from bench.peers.peer import FORBIDDEN, ITEM

HEADS = 4096
Headers = Sequence[tuple[str, str]]


def caller_headers(credential: str) -> list[tuple[str, str]]:
    """The fields of a typical client of an API; six with Host."""
    return [
        ("User-Agent", "bench/1.0"),
        ("Accept", "application/json"),
        ("Accept-Encoding", "gzip, deflate"),
        ("Accept-Language", "en"),
        ("Authorization", f"Bearer {credential}"),
    ]


def browser_headers(credential: str, number: int) -> list[tuple[str, str]]:
    """The fields that Firefox sends with `fetch`, and two identifiers that the page adds; thirteen with Host."""
    identifier = hashlib.sha256(b"%d" % number).hexdigest()
    return [
        ("User-Agent", "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"),
        ("Accept", "application/json"),
        ("Accept-Language", "en-US,en;q=0.5"),
        ("Accept-Encoding", "gzip, deflate, br, zstd"),
        ("Referer", "http://127.0.0.1/items?page=7"),
        ("Authorization", f"Bearer {credential}"),
        ("traceparent", f"00-{identifier[:32]}-{identifier[32:48]}-01"),
        ("X-Correlation-Id", identifier[48:]),
        ("Connection", "keep-alive"),
        ("Sec-Fetch-Dest", "empty"),
        ("Sec-Fetch-Mode", "cors"),
        ("Sec-Fetch-Site", "same-origin"),
    ]


def varying(url: str, credential: str) -> list[bytes]:
    """Requests with different heads, as from many browsers behind one balancer."""
    return [request_bytes(url, browser_headers(credential, number)) for number in range(HEADS)]


def repeated(url: str, credential: str) -> list[bytes]:
    """One request, as from a program that sets no identifiers."""
    return [request_bytes(url, caller_headers(credential))]


@dataclass(frozen=True, slots=True)
class Traffic:
    """The requests of a window in the loads of the comparison. All responses have the same status."""

    name: str
    title: str
    requests: Callable[[str, str], list[bytes]]
    path: str = ITEM
    status: int = 200


VARYING = Traffic("varying", "Requests with varying heads", varying)
REPEATED = Traffic("repeated", "Requests with repeated heads", repeated)
REFUSED = Traffic("refused", "Refused requests (403) with varying heads", varying, FORBIDDEN, 403)
TRAFFIC = (VARYING, REPEATED, REFUSED)
