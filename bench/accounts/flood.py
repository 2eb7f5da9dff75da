"""The effect of 64 clients that log in without pause on other requests, and their share of bcrypt's throughput."""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from bench.accounts.deployment import PASSWORD, Deployment, Gateway
from bench.load import percentile

CLIENTS = 64
P99_LIMIT = 5.0
LOGINS_LIMIT = 0.8
_PROBES = 8  # connections
_RATE = 25.0  # requests per second on each connection

# Uses as many threads as the gateway, with the same lower priority.
_BCRYPT_ALONE = """
import os, sys, threading, time, bcrypt
rounds, seconds = int(sys.argv[1]), float(sys.argv[2])
os.nice(5)
hashed, until, done = bcrypt.hashpw(b"x", bcrypt.gensalt(rounds)), time.perf_counter() + seconds, []
def work():
    while time.perf_counter() < until:
        bcrypt.checkpw(b"y", hashed)
        done.append(time.perf_counter())
begun = time.perf_counter()
threads = [threading.Thread(target=work) for _ in range(min(os.cpu_count() or 1, 8))]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(len(done) / (max(done) - begun))
"""


@dataclass(frozen=True, slots=True)
class Round:
    """Proxied p50 and p99 in milliseconds, quiet and during the flood; bcrypt calls per second beside the same proxied
    load, and logins per second."""

    quiet_p50: float
    quiet_p99: float
    flood_p50: float
    flood_p99: float
    bcrypt: float
    logins: float
    refused: int


def measure(
    deployment: Deployment, *, times: int, seconds: float, rounds: int, tell: Callable[[str], None]
) -> list[dict[str, float]]:
    """Rounds of a quiet window, a window with bcrypt alone, and a window with the flood."""
    with deployment.gateway(deployment.sqlite("flood"), rounds=rounds) as gateway:
        tell(f"{CLIENTS} accounts")
        with gateway.caller() as caller:
            accounts = [gateway.newcomer(caller) for _ in range(CLIENTS)]
        found = []
        for number in range(times):
            tell(f"flood: round {number + 1} of {times}")
            emails = [account.email for account in accounts]
            found.append(asdict(asyncio.run(_round(gateway, emails, accounts[0].token, rounds, seconds))))
        return found


async def _round(gateway: Gateway, emails: list[str], token: str, rounds: int, seconds: float) -> Round:
    quiet = await _probe(gateway.port, token, seconds)
    alone = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _BCRYPT_ALONE, str(rounds), str(seconds), stdout=subprocess.PIPE
    )
    await _probe(gateway.port, token, seconds)
    output, _ = await alone.communicate()
    done: list[tuple[float, int]] = []
    clients = [asyncio.create_task(_log_in(gateway.port, email, done)) for email in emails]
    await asyncio.sleep(2 * seconds / 5)  # until the queue has reached its full length
    begun, before = time.perf_counter(), len(done)
    flood = await _probe(gateway.port, token, 2 * seconds)
    took, since = time.perf_counter() - begun, done[before:]
    for client in clients:
        client.cancel()
    await asyncio.gather(*clients, return_exceptions=True)
    good = sum(status == 200 for _, status in since)
    return Round(
        percentile(quiet, 0.5),
        percentile(quiet, 0.99),
        percentile(flood, 0.5),
        percentile(flood, 0.99),
        float(output),
        good / took,
        len(since) - good,
    )


async def _probe(port: int, token: str, seconds: float) -> list[float]:
    """Sorted milliseconds of proxied requests at a steady rate, counted from the scheduled start of each."""
    found: list[float] = []

    async def caller(offset: float) -> None:
        wire = await _Wire.open(port)
        begun = time.perf_counter() + offset
        for number in range(int(seconds * _RATE)):
            due = begun + number / _RATE
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            status = await wire.ask("GET", "/api/x", token=token)
            assert status == 200, status
            found.append((time.perf_counter() - due) * 1000)
        wire.close()

    await asyncio.gather(*(caller(number / _RATE / _PROBES) for number in range(_PROBES)))
    return sorted(found)


async def _log_in(port: int, email: str, done: list[tuple[float, int]]) -> None:
    wire = await _Wire.open(port)
    while True:
        status = await wire.ask("POST", "/auth/login", {"email": email, "password": PASSWORD})
        done.append((time.perf_counter(), status))


class _Wire:
    """A persistent connection. Responses must have a Content-Length."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, port: int) -> "_Wire":
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def ask(self, method: str, path: str, body: Any = None, token: str = "") -> int:
        data = b"" if body is None else json.dumps(body).encode()
        lines = [f"{method} {path} HTTP/1.1", "Host: gateway", f"Content-Length: {len(data)}"]
        lines += [f"Authorization: Bearer {token}"] if token else []
        lines += ["Content-Type: application/json"] if data else []
        self._writer.write("\r\n".join([*lines, "", ""]).encode() + data)
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        await self._reader.readexactly(int(length.partition(b":")[2]))
        return int(head.split(b" ", 2)[1])

    def close(self) -> None:
        self._writer.close()
