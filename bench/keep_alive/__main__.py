"""`python -m bench.keep_alive`: POST through the gateway while a server is about to close its idle connections.

Each client has its own upstream, so its server connection idles between its requests. The pauses are close to the idle
timeout of the server. A POST is never retried once it was written, so each one that meets a closing connection fails.
"""

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import yaml

from bench.keep_alive.servers import SERVERS, Server
from bench.processes import BenchError, Running, free_port, start, wait_for_port

SPREAD = 0.3  # seconds before and after the idle timeout
WARM_UP = 1.0  # seconds over which the clients start


def options_of(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.keep_alive", description=__doc__)
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=SERVERS, default=list(SERVERS))
    parser.add_argument("--requests", type=int, default=10_000, help="requests for each server")
    parser.add_argument("--clients", type=int, default=500, help="clients, each with its own connection to the server")
    parser.add_argument("--idle", type=float, help="the idle timeout in seconds; by default that of each server")
    parser.add_argument("--keep-alive", help="`keep_alive` of the upstreams, for example 60s; by default unset")
    return parser.parse_args(arguments)


def configuration(port: int, clients: int, keep_alive: str | None, folder: Path) -> str:
    """A file with one upstream per client, all with the same server as target."""
    upstream: dict[str, object] = {"targets": [f"http://127.0.0.1:{port}"], "eject": None}
    if keep_alive is not None:
        upstream["keep_alive"] = keep_alive
    names = [f"u{number}" for number in range(clients)]
    return yaml.safe_dump(
        {
            "storage": {"database": f"sqlite:///{folder / 'gateway.db'}"},
            "observability": {"access_log": "off"},
            "upstreams": dict.fromkeys(names, upstream),
            "routes": [{"path": f"/{name}", "auth": "none", "upstream": name} for name in names],
        }
    )


def start_gateway(text: str, folder: Path) -> tuple[Running, int]:
    """Start the gateway in front of the server. Raises BenchError."""
    file, port = folder / "gateway.yaml", free_port()
    file.write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "gateway", "serve", "--config", str(file), "--port", str(port)]
    running = start(command, cpus=None, environment={}, directory=folder, name="gateway")
    wait_for_port(running, port)
    return running, port


class Client:
    """One client: POSTs over one persistent connection, with pauses of about `idle` seconds."""

    def __init__(self, port: int, number: int, idle: float) -> None:
        self._port = port
        self._idle = idle
        self._random = random.Random(number)
        self._request = b"POST /u%d HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello" % number
        self.outcomes: Counter[str] = Counter()

    async def run(self, requests: int) -> None:
        """Send `requests` requests."""
        await asyncio.sleep(self._random.uniform(0, WARM_UP))
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        for _ in range(requests):
            writer.write(self._request)
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]))
            self.outcomes[head[9:12].decode()] += 1
            await asyncio.sleep(max(0.0, self._idle + self._random.uniform(-SPREAD, SPREAD)))
        writer.close()


async def load(port: int, clients: int, requests: int, idle: float) -> Counter[str]:
    """The statuses received by all clients."""
    crowd = [Client(port, number, idle) for number in range(clients)]
    async with asyncio.TaskGroup() as group:
        for client in crowd:
            group.create_task(client.run(requests // clients))
    return sum((client.outcomes for client in crowd), Counter[str]())


def measure(server: Server, options: argparse.Namespace, folder: Path) -> dict[str, object]:
    """The figures of one server. Raises BenchError."""
    idle = options.idle or server.idle
    upstream, port = server.start(idle, folder)
    try:
        gateway, door = start_gateway(configuration(port, options.clients, options.keep_alive, folder), folder)
        begun = time.monotonic()
        try:
            outcomes = asyncio.run(load(door, options.clients, options.requests, idle))
        finally:
            gateway.stop()
    finally:
        upstream.stop()
    total = sum(outcomes.values())
    return {
        "server": server.name,
        "idle": idle,
        "requests": total,
        "failed": total - outcomes["200"],
        "statuses": dict(outcomes),
        "seconds": round(time.monotonic() - begun, 1),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure each installed server. Exit code 1 if a request failed."""
    options, failed = options_of(arguments), 0
    for name in options.only:
        server = SERVERS[name]
        if server.missing():
            print(f"{name}: not installed", file=sys.stderr)
            continue
        with tempfile.TemporaryDirectory(prefix="gateway-keep-alive-") as folder:
            try:
                figures = measure(server, options, Path(folder))
            except BenchError as error:
                print(f"{name}: {error}", file=sys.stderr)
                failed += 1
                continue
        print(json.dumps(figures), flush=True)
        failed += int(figures["failed"] != 0)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
