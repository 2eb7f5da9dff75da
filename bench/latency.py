"""Latency at a fixed, moderate rate: the delay of requests when the proxy is not saturated. `python -m bench.latency`.

Requests are sent on schedule, whether or not earlier ones have been answered, and each is timed from its scheduled
start. A proxy that stops for 50 ms is charged with the delay of all requests due in that time, which closed loops hide
(coordinated omission). The same rate is sent directly to the upstream; the difference is the proxy's.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from array import array
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from itertools import cycle
from pathlib import Path
from statistics import median
from typing import cast

from bench.load import percentile
from bench.machine import facts, split_cpus
from bench.peers import ALL
from bench.peers.peer import ITEM, Peer
from bench.peers.signer import Signer
from bench.processes import BenchError, pinned
from bench.report import latency_tables
from bench.rounds import Environment, Tell
from bench.traffic import VARYING, varying
from bench.upstream import BODY, start_upstream

Result = dict[str, dict[str, dict[str, float]]]

PEERS = ("gateway", "gateway-native", "gateway-log", "envoy-jwt", "nginx", "haproxy-es256", "caddy")
DIRECT = "direct"
CONNECTIONS = 32
LATE = 5.0  # seconds after which unanswered requests count as failed


@dataclass(frozen=True, slots=True)
class Delays:
    """Milliseconds from the scheduled start of a request to the end of its response."""

    requests: int
    p50: float
    p99: float
    p999: float
    longest: float


class Link(asyncio.Protocol):
    """One connection. `waiting` holds the scheduled times of its requests, which are sent one at a time."""

    def __init__(self, requests: Iterator[bytes], delays: "array[float]") -> None:
        self.requests = requests
        self.delays = delays
        self.waiting: deque[float] = deque()
        self.failed = ""
        self._received = 0
        self._size = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def due(self, when: float) -> None:
        """Send a request now, or after the responses to earlier ones."""
        self.waiting.append(when)
        if len(self.waiting) == 1:
            self.transport.write(next(self.requests))

    def data_received(self, data: bytes) -> None:
        if not self._size:  # all responses have the same size, which the first one reveals
            end = data.find(b"\r\n\r\n")
            if not data.startswith(b"HTTP/1.1 200") or end < 0:
                self.failed = f"answered {data[:100]!r}"
                return
            self._size = end + 4 + len(BODY)
        self._received += len(data)
        if self._received < self._size:
            return
        self.delays.append(time.perf_counter() - self.waiting.popleft())
        self._received = self._size = 0
        if self.waiting:
            self.transport.write(next(self.requests))

    def connection_lost(self, error: Exception | None) -> None:
        self.failed = self.failed or "the connection was closed"


async def drive(url: str, requests: Sequence[bytes], *, rate: float, seconds: float) -> Delays:
    """Send `rate` of the requests per second in turn for `seconds`. Raises BenchError if one fails."""
    loop, delays = asyncio.get_running_loop(), array("d")
    port = int(url.split(":")[2].partition("/")[0])
    turns = cycle(requests)
    links = [
        (await loop.create_connection(lambda: Link(turns, delays), "127.0.0.1", port))[1] for _ in range(CONNECTIONS)
    ]
    begun, count = time.perf_counter(), round(rate * seconds)
    try:
        for number in range(count):
            when = begun + number / rate
            wait = when - time.perf_counter()
            if wait > 0:
                await asyncio.sleep(wait)
            links[number % CONNECTIONS].due(when)
        until = time.perf_counter() + LATE
        while len(delays) < count and not any(link.failed for link in links) and time.perf_counter() < until:
            await asyncio.sleep(0.01)
        if len(delays) < count:
            raise BenchError(next((link.failed for link in links if link.failed), "some were not answered in time"))
    finally:
        for link in links:
            link.transport.abort()
    ordered = sorted(delays)
    p50, p99, p999 = (percentile(ordered, share) * 1e3 for share in (0.5, 0.99, 0.999))
    return Delays(count, p50, p99, p999, ordered[-1] * 1e3)


def measure(
    environment: Environment, peers: Sequence[Peer], *, rates: Sequence[int], rounds: int, seconds: float, tell: Tell
) -> Result:
    """Medians over the rounds by rate and peer, including `direct`. Clients run on the CPUs of the load."""
    taken: dict[tuple[int, str], list[Delays]] = {}
    with ExitStack() as stack, asyncio.Runner(loop_factory=_loop) as runner:
        direct = f"http://127.0.0.1:{environment.upstream_port}{ITEM}"
        ways = {DIRECT: (direct, varying(direct, "none"))}
        for peer in peers:
            try:
                running_peer = stack.enter_context(environment.running_peer(peer))
                url = running_peer.url(VARYING)
                ways[peer.name] = (url, varying(url, running_peer.credential))
            except BenchError as failure:
                tell(f"  {peer.name}: {failure}")
        for rate in [each for each in rates for _ in range(rounds)]:
            for name, (url, requests) in ways.items():
                try:
                    found = runner.run(drive(url, requests, rate=rate, seconds=seconds))
                except (BenchError, OSError) as failure:
                    tell(f"  {name} at {rate}/s: {failure}")
                    continue
                taken.setdefault((rate, name), []).append(found)
                tell(f"  {name:14} {rate:6}/s  p50 {found.p50:6.2f}  p99 {found.p99:6.2f}  p99.9 {found.p999:6.2f} ms")
    result: Result = {}
    for (rate, name), rounds_ in taken.items():
        result.setdefault(str(rate), {})[name] = _middle(rounds_)
    return result


def _middle(rounds: Sequence[Delays]) -> dict[str, float]:
    return {
        key: round(median(float(asdict(each)[key]) for each in rounds), 3) for key in ("p50", "p99", "p999", "longest")
    }


def _loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def main() -> int:
    """Exit code 2 if nothing could be measured."""
    parser = argparse.ArgumentParser(prog="python -m bench.latency", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=[peer.name for peer in ALL])
    parser.add_argument("--rates", nargs="+", type=int, default=[500, 2000])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--output", type=Path, help="also write a JSON file")
    options = parser.parse_args()
    names = options.only or PEERS
    peers = [peer for peer in ALL if peer.name in names and not peer.missing()]
    proxy_cpus, load_cpus = split_cpus()
    with tempfile.TemporaryDirectory(prefix="gateway-bench-") as directory, pinned(load_cpus):
        upstream = start_upstream(Path(directory), load_cpus)
        try:
            environment = Environment(Path(directory), proxy_cpus, upstream.port, Signer())
            plan = {"rates": options.rates, "rounds": options.rounds, "seconds": options.seconds}
            result = measure(environment, peers, **plan, tell=lambda line: print(line, file=sys.stderr))
        finally:
            upstream.running.stop()
    print(latency_tables(result))
    if options.output:
        options.output.write_text(json.dumps({"machine": facts(), "latency": result}, indent=1) + "\n")
    return 0 if result else 2


if __name__ == "__main__":
    sys.exit(main())
