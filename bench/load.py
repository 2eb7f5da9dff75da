"""A closed-loop HTTP/1.1 load generator for machines without wrk: `python -m bench.load URL FILE --seconds 3`.

The file contains requests without bodies, which all connections send in turn. Each connection sends its next request
after the complete response to the last one. A response with another status or an incomplete body counts as an error.
The run never exceeds its time.
"""

import argparse
import asyncio
import json
import time
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import cycle
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import httptools

START_SECONDS = 10.0
GRACE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Load:
    """One measured window: requests answered, seconds, latencies in milliseconds, errors by kind."""

    requests: int
    seconds: float
    p50: float
    p90: float
    p99: float
    p999: float
    errors: dict[str, int]

    @property
    def failed(self) -> int:
        return sum(self.errors.values())


class Tally:
    """The results of all connections of a run."""

    def __init__(self) -> None:
        self.latencies = array("d")
        self.errors: dict[str, int] = {"connect": 0, "read": 0, "status": 0, "timeout": 0}
        self.until = 0.0

    def load(self, seconds: float) -> Load:
        """The result. Latencies of an empty run are 0."""
        ordered = sorted(self.latencies)
        p50, p90, p99, p999 = (percentile(ordered, share) * 1e3 for share in (0.5, 0.9, 0.99, 0.999))
        return Load(len(ordered), seconds, p50, p90, p99, p999, self.errors)


def percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` (0 to 1) of the sorted values do not exceed; 0 without values."""
    if not ordered:
        return 0.0
    return ordered[min(len(ordered) - 1, max(0, -int(-share * len(ordered) // 1) - 1))]


class Connection(asyncio.Protocol):
    """One keep-alive connection. httptools calls the on_* methods."""

    def __init__(self, requests: Iterator[bytes], tally: Tally, status: int) -> None:
        self.requests = requests
        self.tally = tally
        self.status = status
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.parser = httptools.HttpResponseParser(self)
        self._send()

    def _send(self) -> None:
        self.sent = time.perf_counter()
        self.transport.write(next(self.requests))

    def data_received(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            self._fail("read")

    def on_message_complete(self) -> None:
        now = time.perf_counter()
        if self.parser.get_status_code() != self.status:
            self._fail("status")
            return
        self.tally.latencies.append(now - self.sent)
        if now >= self.tally.until:
            self._finish()
        elif self.parser.should_keep_alive():
            self._send()
        else:
            self._fail("read")

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.tally.errors["read"] += 1
            self.done.set_result(None)

    def _fail(self, kind: str) -> None:
        if not self.done.done():
            self.tally.errors[kind] += 1
        self._finish()

    def _finish(self) -> None:
        if not self.done.done():
            self.done.set_result(None)
        self.transport.close()


def request_bytes(url: str, headers: Sequence[tuple[str, str]]) -> bytes:
    """The serialized request, Host first."""
    parts = urlsplit(url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    lines = [
        f"GET {target} HTTP/1.1",
        f"Host: {parts.netloc}",
        *(f"{name}: {value}" for name, value in headers),
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("ascii")


async def run(url: str, requests: Sequence[bytes], *, connections: int, seconds: float, status: int = 200) -> Load:
    """Run `connections` clients for `seconds`. A client that fails is not replaced."""
    parts = urlsplit(url)
    loop, tally, turns = asyncio.get_running_loop(), Tally(), cycle(requests)
    begun = time.perf_counter()
    tally.until = begun + seconds
    host, port = parts.hostname or "127.0.0.1", parts.port or 80
    callers = []
    for _ in range(connections):
        try:
            async with asyncio.timeout(START_SECONDS):
                made = await loop.create_connection(lambda: Connection(turns, tally, status), host, port)
            callers.append(made[1])
        except (OSError, TimeoutError):
            tally.errors["connect"] += 1
    if callers:
        _, late = await asyncio.wait([caller.done for caller in callers], timeout=seconds + GRACE_SECONDS)
        tally.errors["timeout"] += len(late)
    return tally.load(time.perf_counter() - begun)


def main() -> None:
    """Print the result as one JSON object."""
    parser = argparse.ArgumentParser(prog="python -m bench.load", description=__doc__)
    parser.add_argument("url")
    parser.add_argument("requests", type=Path, metavar="FILE")
    parser.add_argument("--status", type=int, default=200, help="the expected status")
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=3.0)
    options = parser.parse_args()
    requests = [head + b"\r\n\r\n" for head in options.requests.read_bytes().split(b"\r\n\r\n")[:-1]]
    size = {"connections": options.connections, "seconds": options.seconds, "status": options.status}
    job = run(options.url, requests, **size)
    try:
        import uvloop
    except ImportError:
        load = asyncio.run(job)
    else:
        load = uvloop.run(job)
    print(json.dumps(asdict(load)))


if __name__ == "__main__":
    main()
